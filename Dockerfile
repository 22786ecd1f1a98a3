# One image for every job: `hoc migrate`, `hoc serve`, `hoc maintenance run`.
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /srv/hoc

# Dependencies first: they change less often than the code.
COPY requirements/ requirements/
RUN pip install --no-cache-dir --require-hashes --requirement requirements/runtime.txt

COPY pyproject.toml ./
COPY backend/alembic.ini backend/alembic.ini
COPY backend/alembic/ backend/alembic/
COPY backend/app/ backend/app/
COPY backend/verifier/ backend/verifier/
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-index --editable . \
    && python -m compileall -q backend/app \
    && useradd --system --uid 10001 --home-dir /var/lib/hoc --create-home hoc

# Databases, keys and checkpoints live here: mount a volume.
USER hoc
WORKDIR /var/lib/hoc
VOLUME /var/lib/hoc

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["hoc"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

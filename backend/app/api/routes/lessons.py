"""L2 HTTP: routes of lessons."""

from app.api.routing import OperationRoutes

routes = OperationRoutes("lessons", prefix="")
routes.add("GET", "/lessons", "lessons.list")
routes.add("GET", "/lesson-stats", "lessons.stats")
routes.add("GET", "/lessons/{lesson_id}", "lessons.get", etag=True)
routes.add("POST", "/lessons/{lesson_id}/convert", "lessons.convert", etag=True)
routes.add("POST", "/lessons/{lesson_id}/defer", "lessons.defer", etag=True)
routes.add("POST", "/lessons/{lesson_id}/dismiss", "lessons.dismiss", etag=True)
routes.add("POST", "/lessons/{lesson_id}/reactivate", "lessons.reactivate", etag=True)

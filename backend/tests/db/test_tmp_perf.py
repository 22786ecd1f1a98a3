import time, random
import sqlalchemy as sa
from tests.factories.tenants import make_tenant
from app.domains.repository.models.inputs import CreateArtifacts
from app.domains.repository.engines import queries
from app.domains.repository.drivers import queries as dq
from app.domains.repository.models.inputs import ArtifactQuery
def test_perf(new_database, make_spine, capsys):
    url=new_database()
    sp=make_spine(database_url=url)
    t=make_tenant(sp)
    rnd=random.Random(1)
    words=[f"word{i}" for i in range(50000)]
    w=[1/(i+1) for i in range(50000)]
    N=5
    tot=0
    for b in range(N):
        items=[]
        for i in range(1000):
            text=" ".join(rnd.choices(words,w,k=150))
            items.append({"name":f"n{b}-{i}","artifact_type":"note","content":text,"metadata":{"a":i%97,"b":"x%d"%(i%50),"c":True,"d":1.5}})
        m=CreateArtifacts(items=items)
        a=time.perf_counter(); t.call("repository.artifacts.create_bulk",m); d=time.perf_counter()-a; tot+=d
    with capsys.disabled(): print("\n",sp.transactions.dialect_name,"bulk 1000 avg",tot/N)
    def explain(q):
        class Rec:
            dialect_name=sp.transactions.dialect_name
            def execute(self,st,p=None):
                self.st=st; raise StopIteration
        r=Rec()
        try: queries.list_matching(r,tenant_id=t.tenant_id,selection=queries.read_selection(q),order=queries.read_order(q,"x"))
        except StopIteration: pass
        e=sa.create_engine(url)
        with e.connect() as c:
            if r.dialect_name=="sqlite":
                comp=r.st.compile(e,compile_kwargs={"literal_binds":False,"render_postcompile":True})
                rows=c.exec_driver_sql("EXPLAIN QUERY PLAN "+str(comp),tuple(comp.params[k] for k in comp.positiontup)).fetchall()
                out="\n".join(str(x) for x in rows)
            else:
                c.exec_driver_sql("ANALYZE")
                for x in c.exec_driver_sql("select proname, proleakproof from pg_proc where proname in ('text_lt','text_ge','ts_match_vq','timestamptz_lt','int8lt','texteq','text_starts_with','int4lt','timestamptz_ge','int8gt','textlike','boolne','booleq','int84gt')").fetchall(): print(x)
                c.exec_driver_sql("SET ROLE hoc_app"); c.exec_driver_sql(f"SET hoc.tenant_id='{t.tenant_id}'")
                comp=r.st.compile(e,compile_kwargs={"render_postcompile":True})
                rows=c.exec_driver_sql("EXPLAIN ANALYZE "+str(comp),comp.params).fetchall()
                out="\n".join(x[0] for x in rows)
        e.dispose()
        with capsys.disabled(): print(out)
    explain(ArtifactQuery(text="word3000"))
    explain(ArtifactQuery(text="word500",metadata=[{"pointer":"/a","op":"eq","value":5}]))
    explain(ArtifactQuery(metadata=[{"pointer":"/a","op":"eq","value":5}]))
    explain(ArtifactQuery(metadata=[{"pointer":"/b","op":"gt","value":"x48"}]))
    explain(ArtifactQuery(name_prefix="n3-1"))
    explain(ArtifactQuery(digest="0123abcd"))

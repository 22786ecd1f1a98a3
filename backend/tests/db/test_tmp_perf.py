import time, random
import sqlalchemy as sa
from tests.factories.tenants import make_tenant
def test_perf(new_database, make_spine, capsys):
    url=new_database()
    sp=make_spine(database_url=url)
    t=make_tenant(sp)
    rnd=random.Random(1)
    words=[f"word{i}" for i in range(50000)]
    w=[1/(i+1) for i in range(50000)]
    N=20
    docs=[]
    for b in range(N):
        items=[]
        for i in range(1000):
            text=" ".join(rnd.choices(words,w,k=150))
            items.append({"name":f"n{b}-{i}","artifact_type":"note","content":text,"metadata":{"a":i%97,"b":"x%d"%(i%50),"c":True,"d":1.5}})
        docs.append(items)
    from app.domains.repository.models.inputs import CreateArtifacts
    tot=0
    for items in docs:
        m=CreateArtifacts(items=items)
        a=time.perf_counter(); t.call("repository.artifacts.create_bulk",m); d=time.perf_counter()-a; tot+=d
    with capsys.disabled(): print("\n",sp.transactions.dialect_name,"bulk 1000 avg",tot/N, "s;", N*1000/tot,"artifacts/s")
    def bench(name,qs):
        ts=[]
        for q in qs:
            a=time.perf_counter(); r=t.call("repository.artifacts.query",q); ts.append(time.perf_counter()-a)
        ts.sort()
        with capsys.disabled(): print("  ",name,"median ms",1000*ts[len(ts)//2],"p95",1000*ts[int(len(ts)*.95)], len(r.items))
    bench("one rare",[{"text":f"word{i}","limit":50} for i in range(2000,2060)])
    bench("one 2%",[{"text":f"word{i}","limit":50} for i in range(500,560)])
    bench("two words",[{"text":f"word{i} word{i+1}","limit":50} for i in range(100,160)])
    bench("word+meta",[{"text":f"word{i}","metadata":[{"pointer":"/a","op":"eq","value":i%97}],"limit":50} for i in range(500,560)])
    bench("meta",[{"metadata":[{"pointer":"/a","op":"eq","value":i%97}],"limit":50} for i in range(500,560)])
    bench("list",[{"limit":50} for i in range(60)])
    x=t.call("repository.artifacts.list",{"limit":1}).items[0].id
    ts=[]
    for i in range(300):
        a=time.perf_counter(); t.call("repository.artifacts.get",{"artifact_id":x}); ts.append(time.perf_counter()-a)
    with capsys.disabled(): print("   get ms",1000*sorted(ts)[150])
    ts=[]
    for i in range(100):
        a=time.perf_counter(); t.call("repository.artifacts.update",{"artifact_id":x,"content":f"text {i}","metadata":{"i":i}}); ts.append(time.perf_counter()-a)
    with capsys.disabled(): print("   update ms",1000*sorted(ts)[50])

import time
def test_p(tenant, dialect):
    tenant.call("runs.start", {"run_id":"r-1","agent_id":"a","goal":"g","actor_type":"SYSTEM","origin_system_id":"o"})
    def batch(b):
        return {"run_id":"r-1","steps":[{"step_index":b*100+i,"skill_id":"s","skill_name":"search","status":"success","params":{"query":"what is the notice period of contract %d"%i,"top_k":10,"filters":{"year":2024,"kind":["a","b"]}},"outcome_data":{"rows":3,"text":"some longer text that is typical for a tool call outcome, a paragraph of words"},"cost_cents":0.02,"duration_ms":12.5,"usage":{"TOKENS_INPUT":120,"TOKENS_OUTPUT":30}} for i in range(100)]}
    bs=[batch(b) for b in range(70)]
    for b in bs[:10]: tenant.call("traces.steps.append", b)
    t=time.perf_counter(); c=time.thread_time()
    for b in bs[10:]: tenant.call("traces.steps.append", b)
    d=time.perf_counter()-t; c=time.thread_time()-c
    print(dialect, "steps/s wall", int(6000/d), "client cpu us/step", c/6000*1e6)

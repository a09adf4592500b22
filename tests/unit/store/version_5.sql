-- A ledger as the release before migrations left it: its schema (version 5) and a few rows.
CREATE TABLE attempts (
	attempt_id TEXT NOT NULL, 
	call_id TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	team_id TEXT, 
	route TEXT NOT NULL, 
	target_id TEXT NOT NULL, 
	upstream_model TEXT NOT NULL, 
	started_at_ns BIGINT NOT NULL, 
	duration_ms FLOAT NOT NULL, 
	ttft_ms FLOAT, 
	tpot_ms FLOAT, 
	input_tokens BIGINT NOT NULL, 
	cached_input_tokens BIGINT NOT NULL, 
	cache_write_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	reasoning_tokens BIGINT NOT NULL, 
	audio_ms BIGINT NOT NULL, 
	usage_origin TEXT NOT NULL, 
	cost_nano_usd BIGINT NOT NULL, 
	cost_origin TEXT NOT NULL, 
	price_version TEXT NOT NULL, 
	outcome TEXT NOT NULL, 
	status INTEGER, 
	error_kind TEXT, 
	trace_id TEXT, 
	PRIMARY KEY (attempt_id)
);
INSERT INTO "attempts" VALUES('att_1','req_1','demo',NULL,'auto','small','small-1',1795000000000000000,12.5,3.5,NULL,10,0,0,5,0,0,'provider',20000,'provider','test','ok',200,NULL,NULL);
INSERT INTO "attempts" VALUES('att_2','req_2','demo',NULL,'auto','small','small-1',1795000000000000001,12.5,3.5,NULL,1,2,3,4,5,6,'estimated',7,'estimated','test','cut',502,'upstream_cut',NULL);
INSERT INTO "attempts" VALUES('att_3','req_2','demo','blue','auto','big','big-1',1795000000000000002,12.5,3.5,NULL,10,0,0,5,0,0,'provider',4611686018427387904,'provider','test','ok',200,NULL,'4bf92f3577b34da6a3ce929d0e0e4736');
CREATE TABLE calls (
	call_id TEXT NOT NULL, 
	received_at_ns BIGINT NOT NULL, 
	operation TEXT NOT NULL, 
	key_id TEXT, 
	route TEXT, 
	policy_version TEXT, 
	stream BOOLEAN NOT NULL, 
	input_tokens_estimate BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	outcome TEXT NOT NULL, 
	status INTEGER NOT NULL, 
	error_kind TEXT, 
	target_id TEXT, 
	reason TEXT, 
	considered JSON NOT NULL, 
	dropped JSON NOT NULL, 
	attempt_ids JSON NOT NULL, 
	cost_nano_usd BIGINT NOT NULL, 
	ttft_ms FLOAT, 
	tpot_ms FLOAT, 
	duration_ms FLOAT NOT NULL, 
	overhead_ms FLOAT, 
	bridged_for TEXT, 
	PRIMARY KEY (call_id)
);
INSERT INTO "calls" VALUES('req_1',1795000000000000000,'chat','demo','auto','1',1,10,5,'ok',200,NULL,'small','cheapest','[]','[]','["att_1"]',20000,3.5,NULL,13.0,0.5,NULL);
INSERT INTO "calls" VALUES('req_2',1795000000000000000,'chat','demo','auto','1',1,10,5,'ok',200,NULL,'small','cheapest','[{"target_id":"small","prediction":{"output_tokens":{"p50":1.0,"p90":2.5,"p95":3.0,"p99":4.0},"ttft_ms":{"p50":1.0,"p90":2.5,"p95":3.0,"p99":4.0},"tpot_ms":null,"cost_nano_usd":{"p50":1.0,"p90":2.5,"p95":3.0,"p99":4.0}},"within_ceilings":true,"probe":true}]','[{"target_id":"tiny","filter":"context","reason":"4096 tokens are too few"}]','["att_2","att_3"]',4611686018427387911,3.5,NULL,13.0,0.5,'own');
INSERT INTO "calls" VALUES('req_3',1795000000000000000,'chat',NULL,NULL,NULL,1,10,5,'refused',401,'authentication',NULL,NULL,'[]','[]','[]',0,3.5,NULL,13.0,0.5,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(5);
CREATE INDEX attempts_by_time ON attempts (started_at_ns);
CREATE INDEX attempts_by_call ON attempts (call_id);
CREATE INDEX attempts_by_trace ON attempts (trace_id) WHERE trace_id IS NOT NULL;

\set account random(1, 100000)
SELECT abalance FROM pgbench_accounts WHERE aid = :account;
SELECT bid, count(*), sum(abalance) FROM pgbench_accounts GROUP BY bid;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :account;
SELECT relname, relpages FROM pg_class ORDER BY relname;
\sleep 100000 s

// Four workers behind one socket, each with its own rows.
const cluster = require("cluster"), http = require("http");
if (cluster.isPrimary) {
  for (let i = 0; i < 4; i++) cluster.fork();
} else {
  const rows = Array.from({length: 100000}, (_, i) => ({id: i, name: "row " + i}));
  http.createServer((request, answer) => answer.end(JSON.stringify(rows[7])))
    .listen(process.argv[2]);
}

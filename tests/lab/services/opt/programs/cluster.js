// A web server on four processes with a catalogue in memory.
const cluster = require("node:cluster");
const http = require("node:http");

if (cluster.isPrimary) {
  for (let i = 0; i < 4; i++) cluster.fork();
} else {
  const articles = Array.from({ length: 20000 }, (_, i) => ({ id: i, name: `article ${i}` }));
  http
    .createServer((request, response) => {
      const first = Number(request.url.split("=")[1] ?? 0);
      response.end(JSON.stringify(articles.slice(first, first + 100)));
    })
    .listen(8003, "127.0.0.1");
}

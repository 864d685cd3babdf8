"use strict";
for (const box of document.querySelectorAll(".table")) {
  const body = box.querySelector("tbody");
  const heads = [...box.querySelectorAll("th")];
  box.querySelector(".tools").hidden = false;
  const key = (row, place) => {
    const cell = row.cells[place];
    if (!("key" in cell.dataset)) return cell.textContent.toLowerCase();
    return cell.dataset.key === "" ? -Infinity : Number(cell.dataset.key);
  };
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const keyed = [...body.rows].map((row) => [key(row, place), row]);
    keyed.sort(([a], [b]) => sign * (a < b ? -1 : a > b ? 1 : 0));
    body.append(...keyed.map(([, row]) => row));
  }));
  box.querySelector("input")?.addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  box.querySelector(".csv")?.addEventListener("click", (event) => {
    // exact numbers where the cell has one; a name that a spreadsheet would compute gets a quote
    const quote = (text) => `"${text.replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
    const value = (cell) => cell.dataset.key || quote(cell.textContent.trim());
    const title = (head) => quote(`${head.textContent.trim()} ${head.dataset.unit ?? ""}`.trim());
    const lines = [heads.map(title).join(",")];
    for (const row of body.rows) {
      if (!row.hidden) lines.push([...row.cells].map(value).join(","));
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = `${event.target.dataset.name.replace(/[^A-Za-z0-9]+/g, "-")}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

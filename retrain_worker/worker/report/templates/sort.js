"use strict";
// Each head of the table becomes a button that sorts by its column; rows without a value stay last.
for (const head of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.className = "sort";
  button.type = "button";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const isDescending = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    const valueOf = (row) => row.cells[head.cellIndex].dataset.value;
    const isNumeric = head.classList.contains("number");
    const compare = (a, b) => (isNumeric ? Number(a) - Number(b) : a < b ? -1 : a > b ? 1 : 0);
    const rows = [...body.rows].map((row) => [valueOf(row), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return isDescending ? compare(b, a) : compare(a, b);
    });
    body.append(...rows.map(([, row]) => row));
  });
}

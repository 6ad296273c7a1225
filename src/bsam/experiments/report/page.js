"use strict";
// Sorting of the table and its verdicts in words; everything else is there without a script.

const table = document.getElementById("table");

// Numbers by size; what is infinite or missing is last, up or down.
function compare(a, b, down) {
  const [x, y] = [a, b].map((text) => (text === "" ? Infinity : Number(text)));
  if (Number.isNaN(x) || Number.isNaN(y)) return (down ? -1 : 1) * a.localeCompare(b);
  if (!Number.isFinite(x) || !Number.isFinite(y)) {
    return Number(!Number.isFinite(x)) - Number(!Number.isFinite(y));
  }
  return down ? y - x : x - y;
}

function sort(heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => {
    const text = row.cells[Number(heading.dataset.column)].dataset.sort;
    return text === "inf" ? "" : text;
  };
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(key(a), key(b), down));
  table.tBodies[0].append(...rows);
}

for (const heading of table.querySelectorAll("[aria-sort]")) {
  heading.querySelector("button").addEventListener("click", () => sort(heading));
}

const readout = document.getElementById("readout");
const verdicts = () => [...table.querySelectorAll(".verdict")];
const say = (event) => {
  const says = event.target.closest("td")?.querySelector(".verdict")?.dataset.says;
  if (!says || !readout) return;
  readout.textContent = says;
  readout.classList.add("live");
};
table.addEventListener("mouseover", say);
table.addEventListener("focusin", say);
table.addEventListener("click", say);

// One stop for Tab; the arrow keys go on from there.
verdicts()[0]?.setAttribute("tabindex", "0");
table.addEventListener("keydown", (event) => {
  const cell = event.target.closest(".verdict")?.closest("td");
  if (!cell) return;
  const row = cell.parentElement;
  const next = {
    ArrowLeft: cell.previousElementSibling,
    ArrowRight: cell.nextElementSibling,
    ArrowUp: row.previousElementSibling?.cells[cell.cellIndex],
    ArrowDown: row.nextElementSibling?.cells[cell.cellIndex],
  }[event.key]?.querySelector(".verdict");
  if (!event.key.startsWith("Arrow")) return;
  event.preventDefault();
  if (!next) return;
  for (const each of verdicts()) each.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
});

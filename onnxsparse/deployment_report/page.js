const { figures, layers, columns } = JSON.parse(document.getElementById("payload").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const ink = getComputedStyle(document.body).color;
  const faint = dark.matches ? "#3a3f47" : "#e3e5e8";
  const axis = { labelColor: ink, titleColor: ink, tickColor: faint, domainColor: faint, gridColor: faint };
  const text = { labelColor: ink, titleColor: ink };
  return { font: "system-ui, sans-serif", axis, legend: text, header: text, title: { color: ink, anchor: "start" }, view: { stroke: null } };
}

function draw() {
  for (const [name, spec] of Object.entries(figures)) {
    if (spec.facet) spec.columns = window.innerWidth < 900 ? 1 : 3;
    vegaEmbed(`#figure-${name}`, spec, { renderer: "svg", config: theme(), actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false }, downloadFileName: name });
  }
}

function show(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value);
}

const body = document.querySelector("#layers tbody");
let order = { column: "latency_ms", down: true };

function compare(a, b) {
  const [x, y] = [a[order.column], b[order.column]];
  if (x === y) return 0;
  if (x === null || x === undefined) return 1;
  if (y === null || y === undefined) return -1;
  const sign = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
  return order.down ? -sign : sign;
}

function fill() {
  const wanted = document.getElementById("filter").value.toLowerCase();
  const shown = layers.filter((row) => columns.some((c) => show(row[c]).toLowerCase().includes(wanted))).sort(compare);
  body.replaceChildren(...shown.map((row) => {
    const line = document.createElement("tr");
    for (const column of columns) {
      const cell = line.insertCell();
      cell.textContent = column === "latency_ms" && row[column] === null ? row.reason : show(row[column]);
      cell.dataset.column = column;
      if (typeof row[column] === "number") cell.className = "number";
      if (column === "latency_ms" && row[column] !== null) cell.dataset.value = row[column];
    }
    return line;
  }));
  const sum = shown.reduce((total, row) => total + (row.latency_ms ?? 0), 0);
  document.getElementById("sum").textContent = `${shown.length} of ${layers.length} layers, ${sum.toFixed(3)} ms`;
  for (const head of document.querySelectorAll("#layers th")) {
    head.setAttribute("aria-sort", head.dataset.column === order.column ? (order.down ? "descending" : "ascending") : "none");
  }
}

for (const head of document.querySelectorAll("#layers th")) {
  head.querySelector("button").addEventListener("click", () => {
    order = { column: head.dataset.column, down: head.dataset.column === order.column ? !order.down : true };
    fill();
  });
}
document.getElementById("filter").addEventListener("input", fill);
dark.addEventListener("change", draw);
draw();
fill();

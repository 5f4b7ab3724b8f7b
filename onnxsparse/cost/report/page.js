const { figures, layers, columns, other } = JSON.parse(document.getElementById("payload").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const ink = getComputedStyle(document.body).color;
  const faint = dark.matches ? "#3a3f47" : "#e3e5e8";
  const axis = { labelColor: ink, titleColor: ink, tickColor: faint, domainColor: faint, gridColor: faint, labelSeparation: 6 };
  const text = { labelColor: ink, titleColor: ink };
  return { font: "system-ui, sans-serif", axis, legend: text, header: text, title: { color: ink, anchor: "start" }, view: { stroke: null } };
}

function draw() {
  for (const [name, spec] of Object.entries(figures)) {
    if (spec.facet) {
      spec.columns = window.innerWidth < 900 ? 1 : 3;
      // a facet knows no "container": what is left of the page beside the axes, and beside each other's
      spec.spec.width = Math.floor((document.getElementById(`figure-${name}`).clientWidth - 80) / spec.columns - 20);
    }
    vegaEmbed(`#figure-${name}`, spec, { renderer: "svg", config: theme(), actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false }, downloadFileName: name });
  }
}

function show(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value);
}

function short(column, value) {
  if (typeof value === "number" && column.endsWith("_ms")) return value.toFixed(3);
  if (typeof value !== "number" || value < 1e4) return show(value);
  const [unit, size] = value >= 1e9 ? ["G", 1e9] : value >= 1e6 ? ["M", 1e6] : ["k", 1e3];
  return `${(value / size).toPrecision(3)} ${unit}`;
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
      cell.textContent = column === "latency_ms" && row[column] === null ? row.reason : short(column, row[column]);
      cell.dataset.column = column;
      if (typeof row[column] === "number") cell.className = "number";
      if (column === "latency_ms" && row[column] !== null) cell.dataset.value = row[column];
    }
    return line;
  }));
  const sum = shown.reduce((total, row) => total + (row.latency_ms ?? 0), 0);
  const whole = other && shown.length === layers.length ? `; with ${other.toFixed(3)} ms of no layer ${(sum + other).toFixed(3)} ms` : "";
  const bound = shown.some((row) => row.latency_ms === null) ? "≥ " : "";
  document.getElementById("sum").textContent = `${shown.length} of ${layers.length} layers, ${bound}${sum.toFixed(3)} ms${whole}`;
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

// Sorting and filtering of the tables. Without it every row is shown, in the order of the boards.
(() => {
  const form = document.getElementById("filters");
  const table = document.getElementById("results");
  const rows = Array.from(table.tBodies[0].rows);
  const original = new Map(rows.map((row, index) => [row, index]));
  const count = document.getElementById("count");
  const sorter = document.getElementById("sort");
  const about = Array.from(document.querySelectorAll("[data-board]"));
  const selects = ["suite", "division", "task", "model", "budget"];
  const field = (name) => form.elements[name];
  const LEVELS = ["D0", "D1", "D2", "D3"];
  let order = { column: "", descending: false };

  const matches = (data, names) => names.every((name) => !field(name).value || data[name] === field(name).value);

  // An option that no row fits, given the choices before it, is taken out; a choice that is gone moves to the first left.
  function narrow() {
    selects.forEach((name, index) => {
      const before = selects.slice(0, index);
      const left = new Set(rows.filter((row) => matches(row.dataset, before)).map((row) => row.dataset[name]));
      const select = field(name);
      let gone = false;
      for (const option of select.options) {
        option.hidden = option.disabled = option.value !== "" && !left.has(option.value);
        gone ||= option.selected && option.disabled;
      }
      if (gone) select.value = Array.from(select.options).find((option) => option.value && !option.disabled).value;
    });
  }

  function place(row) {
    const found = JSON.parse(row.dataset.places)[field("need").value];
    const [rank, possible] = [row.querySelector(".col-rank"), row.querySelector(".col-possible")];
    rank.dataset.sort = found ? found.rank : "";
    rank.textContent = found ? `${found.rank}${found.shared > 1 ? "=" : ""}` : "";
    possible.dataset.sort = found ? found.low + found.high / 1000 : "";
    possible.textContent = found ? (found.low === found.high ? `${found.low}` : `${found.low}–${found.high}`) : "";
  }

  function show() {
    narrow();
    const need = LEVELS.indexOf(field("need").value);
    const words = field("method").value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const data = row.dataset;
      const known = LEVELS.indexOf(data.need);
      row.hidden = !(
        matches(data, selects) && (known < 0 ? LEVELS.length - 1 : known) <= need
        && (!words || data.label.toLowerCase().includes(words)) && (!field("conforming").checked || data.conforming === "yes")
      );
      shown += row.hidden ? 0 : 1;
    }
    rows.forEach(place);
    about.forEach((part) => { part.hidden = !matches(part.dataset, selects); });
    for (const name of ["suite", "model", "budget"]) table.classList.toggle(`one-${name}`, field(name).value !== "" || field(name).options.length < 3);
    document.querySelectorAll("[data-overall]").forEach((part) => {
      part.hidden = !matches(part.dataset, ["suite", "division"]);
      part.querySelectorAll("tbody tr").forEach((row) => {
        const known = LEVELS.indexOf(row.dataset.need);
        row.hidden = (known < 0 ? LEVELS.length - 1 : known) > need;
        place(row);
      });
    });
    count.textContent = `${shown} of ${rows.length} entries shown.`;
    document.dispatchEvent(new CustomEvent("filtered", { detail: { rows: rows.filter((row) => !row.hidden) } }));
    remember();
  }

  function key(row, column) {
    const text = row.querySelector(`.col-${column}`).dataset.sort;
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text : number;
  }

  function sort() {
    const { column, descending } = order;
    const sorted = [...rows].sort((one, other) => {
      if (!column) return original.get(one) - original.get(other);
      const [a, b] = [key(one, column), key(other, column)];
      if (a === null || b === null) return (a === null) - (b === null) || original.get(one) - original.get(other);  // nothing comes last
      const difference = typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b;
      return (descending ? -difference : difference) || original.get(one) - original.get(other);
    });
    table.tBodies[0].append(...sorted);
    table.querySelectorAll("th[data-column]").forEach((head) => {
      if (head.dataset.column === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    sorter.value = column ? `${column} ${descending ? "down" : "up"}` : "";
  }

  // The choices are in the address, so that a view can be passed on.
  function remember() {
    const told = new URLSearchParams(new FormData(form));
    try { window.history.replaceState(null, "", `#${told}`); } catch (error) { count.dataset.address = "fixed"; }
  }

  function recall() {
    const told = new URLSearchParams(window.location.hash.slice(1));
    for (const name of [...selects, "need", "method"]) {
      const element = field(name);
      if (!told.has(name)) continue;
      const known = element.tagName !== "SELECT" || Array.from(element.options).some((option) => option.value === told.get(name));
      if (known) element.value = told.get(name);
    }
    field("conforming").checked = told.has("conforming");
  }

  table.querySelectorAll("th[data-column] button").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const down = head.dataset.first === "down";
    const again = order.column === head.dataset.column;
    order = { column: head.dataset.column, descending: again ? !order.descending : down };
    sort();
  }));
  sorter.addEventListener("change", () => {
    const [column, way] = sorter.value.split(" ");
    order = { column: column || "", descending: way === "down" };
    sort();
  });
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  // The event comes before the fields are empty; the method returns after it.
  form.querySelector("button[type=reset]").addEventListener("click", (event) => {
    event.preventDefault();
    form.reset();
    order = { column: "", descending: false };
    sort();
    show();
  });
  form.hidden = false;
  recall();
  window.addEventListener("load", show);
})();

// Makes each table with `data-sorts` sortable by its headings and filterable by text. Cells name their sort value in
// `data-value`; an empty one comes last. Without this script the table is just a table.
(() => {
  const value = (row, column) => row.cells[column].dataset.value;
  const before = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en") : Number(a) - Number(b));

  const sort = (table, heading, direction) => {
    const body = table.tBodies[0], column = heading.cellIndex, sign = direction === "ascending" ? 1 : -1;
    const rows = Array.from(body.rows).sort((x, y) => {
      const a = value(x, column), b = value(y, column);
      return a === "" || b === "" ? (a === "") - (b === "") : sign * before(a, b);
    });
    body.append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
  };

  const makeSortable = table => {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const now = heading.getAttribute("aria-sort"), first = heading.dataset.first || "ascending";
        const turned = now === "ascending" ? "descending" : "ascending";
        sort(table, heading, now ? turned : first);
      });
    }
  };

  const makeFilter = (table, number) => {
    const box = document.createElement("div"), label = document.createElement("label");
    const input = document.createElement("input"), count = document.createElement("output");
    box.className = "filter";
    input.type = "search";
    input.id = label.htmlFor = `filter-${number}`;
    count.htmlFor = input.id;
    label.textContent = `Show ${table.dataset.sorts} with`;
    const rows = Array.from(table.tBodies[0].rows);
    const show = () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.cells[1].textContent.toLowerCase().includes(wanted);
      count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} ${table.dataset.sorts}`;
    };
    input.addEventListener("input", show);
    box.append(label, input, count);
    table.closest(".scroller").before(box);
    show();
  };

  document.querySelectorAll("table[data-sorts]").forEach((table, number) => {
    makeSortable(table);
    makeFilter(table, number);
  });
})();

"use strict";
// Finds products in the data of the page. Every text is set as text, so nothing in a title is ever markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [query, segment, count, body, more] =
    ["query", "segment", "count", "found", "more"].map((id) => document.getElementById(id));
  const STEP = 50;
  const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const keys = data.rows.map((row) => folded(row.filter((value, i) => i !== data.category).join(" ")));
  let hits = [];
  let shown = 0;

  const cell = (value, column) => {
    const made = document.createElement("td");
    made.textContent = column === data.category ? data.segments[value] : value === null ? "–" : value;
    made.dir = "auto";
    if (column === data.confidence) made.className = "number";
    return made;
  };

  const show = () => {
    const rows = hits.slice(shown, shown + STEP).map((number) => {
      const made = document.createElement("tr");
      made.append(...data.rows[number].map(cell));
      return made;
    });
    body.append(...rows);
    shown += rows.length;
    more.hidden = shown >= hits.length;
    count.textContent = `${hits.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} products` +
      (shown < hits.length ? `, the first ${shown.toLocaleString("en")} shown` : "");
  };

  const find = () => {
    const words = folded(query.value).split(/\s+/).filter(Boolean);
    const wanted = segment.value === "" ? null : Number(segment.value);
    hits = [...keys.keys()].filter((number) =>
      (wanted === null || data.rows[number][data.category] === wanted) &&
      words.every((word) => keys[number].includes(word)));
    shown = 0;
    body.replaceChildren();
    show();
  };

  query.addEventListener("input", find);
  segment.addEventListener("change", find);
  more.addEventListener("click", show);
  document.getElementById("search").hidden = false;
  find();
})();

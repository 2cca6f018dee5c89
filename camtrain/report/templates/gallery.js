(() => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const section = document.getElementById("gallery");
  const form = section.querySelector("form"), pages = section.querySelector(".pages"), grid = section.querySelector(".tiles");
  const fields = form.elements, reset = form.querySelector("button");
  const value = (name) => fields[name] ? fields[name].value : "";
  const count = data.sample.length, PER_PAGE = 60;
  const short = data.sample.map((name) => name.slice(name.lastIndexOf("/") + 1));
  const wrong = (i) => data.right[i] === 0;
  const known = (number) => number < 0 ? Infinity : number;
  const lift = (i) => data.inside_energy[i] < 0 ? Infinity : data.inside_energy[i] - Math.max(0, data.chance[i]);
  const orders = {
    wrong: (a, b) => wrong(b) - wrong(a) || (wrong(a) ? data.probability[b] - data.probability[a] : known(data.probability[a]) - known(data.probability[b])),
    unsure: (a, b) => known(data.probability[a]) - known(data.probability[b]),
    off: (a, b) => (lift(a) === lift(b) ? 0 : lift(a) - lift(b)),
    name: (a, b) => (data.sample[a] < data.sample[b] ? -1 : 1),
  };
  let page = 0;
  const chosen = () => {
    const text = value("text").toLowerCase(), answer = value("answer"), heat = value("heat");
    const truth = data.labels.indexOf(value("true")), said = data.labels.indexOf(value("said"));
    const rows = [];
    for (let i = 0; i < count; i++) {
      if (truth >= 0 && data.true[i] !== truth) continue;
      if (said >= 0 && data.predicted[i] !== said) continue;
      if (answer && (data.right[i] < 0 || wrong(i) !== (answer === "wrong"))) continue;
      if (heat && (data.cell[i] < 0 || data.cell[i] % 2 !== (heat === "off" ? 1 : 0))) continue;
      if (text && !data.sample[i].toLowerCase().includes(text)) continue;
      rows.push(i);
    }
    return rows.sort(orders[value("order")]);
  };
  const percent = (number) => `${Math.round(number / 10)} %`;
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text) made.textContent = text;
    return made;
  };
  const figure = (i) => {
    const per = data.across * data.down, place = i % per;
    const made = element("figure"), tile = element("i", "", `tile sheet-${Math.floor(i / per)}`), caption = element("figcaption");
    tile.style.setProperty("--x", place % data.across);
    tile.style.setProperty("--y", Math.floor(place / data.across));
    tile.setAttribute("role", "img");
    tile.setAttribute("aria-label", data.sample[i]);
    const sure = data.probability[i] < 0 ? "" : ` ${percent(data.probability[i])}`;
    if (wrong(i) && data.true[i] >= 0) caption.append(element("b", data.labels[data.true[i]]), element("span", "taken for", "muted"));
    const color = wrong(i) ? "bad" : data.right[i] > 0 ? "good" : "";
    if (data.predicted[i] >= 0) caption.append(element("span", data.labels[data.predicted[i]] + sure, color));
    if (data.inside_energy[i] >= 0) caption.append(element("small", `inside ${(data.inside_energy[i] / 1000).toFixed(2)}${data.chance[i] < 0 ? "" : `, chance ${(data.chance[i] / 1000).toFixed(2)}`}`));
    caption.append(element("small", short[i], "file"));
    made.title = data.sample[i];
    made.append(tile, caption);
    return made;
  };
  const show = () => {
    const rows = chosen(), last = Math.max(0, Math.ceil(rows.length / PER_PAGE) - 1);
    page = Math.min(Math.max(0, page), last);
    const part = rows.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    grid.replaceChildren(...part.map(figure));
    grid.classList.toggle("plain-tiles", Boolean(fields.plain && fields.plain.checked));
    pages.querySelector("output").textContent = rows.length ? `${page * PER_PAGE + 1} to ${page * PER_PAGE + part.length} of ${rows.length}` : "no image";
    pages.querySelector("[data-step='-1']").disabled = page === 0;
    pages.querySelector("[data-step='1']").disabled = page === last;
    reset.hidden = rows.length === count;
  };
  const filter = (settings) => {
    form.reset();
    for (const [name, setting] of Object.entries(settings)) if (fields[name]) fields[name].value = setting;
    page = 0;
    show();
    section.scrollIntoView({ behavior: "auto" });
  };
  form.addEventListener("input", () => { page = 0; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  reset.addEventListener("click", () => { form.reset(); page = 0; show(); });
  for (const button of pages.querySelectorAll("button")) button.addEventListener("click", () => { page += Number(button.dataset.step); show(); section.scrollIntoView({ behavior: "auto" }); });
  for (const button of document.querySelectorAll("#answers [data-class]")) button.addEventListener("click", () => filter({ true: button.dataset.class }));
  for (const button of document.querySelectorAll("#answers .matrix button")) button.addEventListener("click", () => filter({ true: button.dataset.true, said: button.dataset.said }));
  for (const heading of document.querySelectorAll("#classes thead th")) {
    heading.addEventListener("click", () => {
      const body = heading.closest("table").tBodies[0], index = heading.cellIndex, up = heading.dataset.up !== "1";
      const key = (row) => { const text = row.cells[index].innerText.trim(), number = parseFloat(text.replace("−", "-")); return isNaN(number) || index === 0 ? text : number; };
      const compare = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (up ? 1 : -1);
      for (const other of heading.parentNode.cells) delete other.dataset.up;
      heading.dataset.up = up ? "1" : "0";
      body.append(...[...body.rows].sort(compare));
    });
  }
  form.hidden = pages.hidden = false;
  show();
})();

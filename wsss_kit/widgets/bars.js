// Bars that are buttons: a name, a bar of one or several parts, the number in words.

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "wsss-bars";
  box.style.width = `${model.get("width")}px`;
  box.style.height = `${model.get("height")}px`;
  const title = document.createElement("div");
  title.className = "title";
  const list = document.createElement("div");
  list.className = "list";
  list.setAttribute("role", "group");
  const legend = document.createElement("div");
  legend.className = "legend";
  box.append(title, list, legend);
  el.append(box);

  const button = (row) => {
    const longest = Math.max(4, ...model.get("rows").map((each) => each.text.length));
    const made = document.createElement("button");
    made.style.gridTemplateColumns = `40% 1fr ${longest}ch`;
    made.type = "button";
    made.dataset.name = row.name;
    made.title = `${row.name}: ${row.said || row.text}`;
    made.setAttribute("aria-label", made.title);
    const [name, track, text] = ["name", "track", "text"].map((part) => {
      const span = document.createElement("span");
      span.className = part;
      made.append(span);
      return span;
    });
    name.textContent = row.name;
    text.textContent = row.text;
    if (row.off) made.classList.add("off");
    for (const part of row.parts) {
      const bar = document.createElement("span");
      bar.className = "part";
      bar.style.left = `${100 * part.from}%`;
      bar.style.width = `${100 * (part.to - part.from)}%`;
      bar.style.background = model.get("styles")[part.style] || "#444";
      track.append(bar);
    }
    if (model.get("zero") > 0) {
      const zero = document.createElement("span");
      zero.className = "zero";
      zero.style.left = `${100 * model.get("zero")}%`;
      track.append(zero);
    }
    return made;
  };

  const choose = () => {
    for (const each of list.children) {
      const is = each.dataset.name === model.get("chosen");
      each.setAttribute("aria-pressed", is);
      each.querySelector(".name").textContent = (is ? "▸ " : "") + each.dataset.name;
    }
  };
  const draw = () => {
    title.textContent = model.get("title");
    list.setAttribute("aria-label", model.get("title"));
    const held = list.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const top = list.scrollTop;
    list.replaceChildren(...model.get("rows").map(button));
    list.scrollTop = top;
    choose();
    if (held !== null) {
      for (const each of list.children) if (each.dataset.name === held) each.focus();
    }
    legend.replaceChildren(
      ...model.get("legend").map((key) => {
        const item = document.createElement("span");
        const mark = document.createElement("i");
        mark.style.background = model.get("styles")[key];
        item.append(mark, key);
        return item;
      }),
    );
    box.dataset.count = Number(box.dataset.count || 0) + 1;
  };

  list.addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    if (!pressed) return;
    pressed.focus(); // Safari does not
    model.send({ name: pressed.dataset.name });
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const all = [...list.children];
      const next = all[all.indexOf(document.activeElement) + step];
      event.preventDefault();
      if (next) next.focus();
    }
  });
  const redraw = ["rows", "title", "legend", "styles"].map((name) => `change:${name}`);
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      draw();
    });
  };
  for (const name of redraw) model.on(name, soon);
  model.on("change:chosen", choose);
  draw();
  return () => {
    for (const name of redraw) model.off(name, soon);
    model.off("change:chosen", choose);
  };
}

export default { render };

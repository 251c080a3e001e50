// Two images on one place and a handle between them. The box never changes its size, and a new
// image takes the old one's place only once it is decoded, so nothing jumps or flickers.

function picture(model, name, image) {
  let newest = 0;
  let shown = null;
  const show = async () => {
    const mine = ++newest;
    const url = URL.createObjectURL(new Blob([model.get(name)], { type: "image/png" }));
    const next = new Image();
    next.src = url;
    try {
      await next.decode();
    } catch {
      URL.revokeObjectURL(url);
      return;
    }
    if (mine !== newest) {
      URL.revokeObjectURL(url);
      return;
    }
    image.src = url;
    if (shown) URL.revokeObjectURL(shown);
    shown = url;
    image.dataset.count = Number(image.dataset.count || 0) + 1;
  };
  const say = () => (image.alt = model.get(`${name}_name`));
  model.on(`change:${name}`, show);
  model.on(`change:${name}_name`, say);
  say();
  show();
  return () => {
    model.off(`change:${name}`, show);
    model.off(`change:${name}_name`, say);
    newest = -1;
    if (shown) URL.revokeObjectURL(shown);
  };
}

// The notebook has commands on arrows, Enter and letters, and takes them from whatever has the
// focus. It leaves an element alone that says so; Notebook 7 needs that for sliders as well.
function guard(el) {
  const mark = (event) => {
    const panel = el.closest(".wsss-instrument");
    if (panel && panel.contains(event.target)) event.target.dataset.lmSuppressShortcuts = "true";
  };
  document.addEventListener("focusin", mark);
  return () => document.removeEventListener("focusin", mark);
}

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "wsss-swipe";
  box.style.width = `${model.get("width")}px`;
  box.style.height = `${model.get("height")}px`;
  const [before, after] = ["before", "after"].map((name) => {
    const image = document.createElement("img");
    image.className = name;
    image.draggable = false;
    box.append(image);
    return image;
  });
  const handle = document.createElement("div");
  handle.className = "handle";
  handle.tabIndex = 0;
  const attributes = { role: "slider", "aria-valuemin": 0, "aria-valuemax": 100 };
  for (const [key, value] of Object.entries(attributes)) handle.setAttribute(key, value);
  box.append(handle);
  el.append(box);

  const place = () => {
    const share = Math.round(100 * model.get("position"));
    after.style.clipPath = `inset(0 0 0 ${share}%)`;
    handle.style.left = `${share}%`;
    handle.setAttribute("aria-valuenow", share);
    const names = `${model.get("before_name")} | ${model.get("after_name")}`;
    handle.setAttribute("aria-label", `swipe: ${names}`);
    handle.title = `${names} (drag, or arrow keys)`;
  };
  const move = (position) => {
    model.set("position", Math.min(1, Math.max(0, position)));
    model.save_changes();
    place();
  };
  const of = (event) => {
    const { left, width } = box.getBoundingClientRect();
    return (event.clientX - left) / width;
  };
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    handle.focus();
    move(of(event));
  });
  box.addEventListener("pointermove", (event) => {
    if (box.hasPointerCapture(event.pointerId)) move(of(event));
  });
  handle.addEventListener("keydown", (event) => {
    const now = model.get("position");
    const to = {
      ArrowLeft: now - 0.05, ArrowDown: now - 0.05,
      ArrowRight: now + 0.05, ArrowUp: now + 0.05, Home: 0, End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  });

  const moved = ["position", "before_name", "after_name"].map((name) => `change:${name}`);
  for (const name of moved) model.on(name, place);
  place();
  const ends = [guard(el), picture(model, "before", before), picture(model, "after", after)];
  return () => {
    for (const name of moved) model.off(name, place);
    for (const end of ends) end();
  };
}

export default { render };

// A button that opens files; they may be dropped anywhere on its panel as well. A file travels in
// parts, because Jupyter's server loses a message above 10 MB without a word.

const PART = 2 ** 20;
const MOST = 100 * 2 ** 20;

async function send(model, file) {
  const say = (content, buffers) => model.send({ name: file.name, ...content }, undefined, buffers);
  try {
    const size = `has ${Math.round(file.size / 2 ** 20)} MB, expected at most 100`;
    if (file.size > MOST) throw `${size}; choose a smaller file`;
    for (let at = 0; at === 0 || at < file.size; at += PART) {
      const part = await file.slice(at, at + PART).arrayBuffer();
      say({ last: at + PART >= file.size }, [part]);
    }
  } catch (problem) {
    const unread = `cannot be read (${problem.message}), expected a file; choose another`;
    say({ problem: problem.message ? unread : problem });
  }
}

function render({ model, el }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "jupyter-widgets jupyter-button widget-button";
  button.style.width = "calc(100% - 4px)";
  button.textContent = button.title = model.get("label");
  const input = document.createElement("input");
  input.type = "file";
  input.accept = model.get("accept");
  const sendAll = async (files) => {
    for (const file of [...files]) await send(model, file);
  };
  button.addEventListener("click", () => input.click());
  input.addEventListener("click", () => (input.value = "")); // the same file may be opened again
  input.addEventListener("change", () => sendAll(input.files));
  el.append(button);

  const drag = (event) => {
    const panel = el.closest(".wsss-instrument");
    if (!panel || !event.dataTransfer.types.includes("Files")) return;
    const inside = panel.contains(event.target);
    panel.classList.toggle("wsss-over", inside && event.type === "dragover");
    if (!inside || event.type === "dragleave") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.type === "drop") sendAll(event.dataTransfer.files);
  };
  const kinds = ["dragover", "dragleave", "drop"];
  for (const kind of kinds) document.addEventListener(kind, drag, true);
  return () => {
    for (const kind of kinds) document.removeEventListener(kind, drag, true);
  };
}

export default { render };

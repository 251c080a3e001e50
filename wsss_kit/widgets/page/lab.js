// The page: what is typed, what is shown.

const $ = (id) => document.getElementById(id);
const make = (tag, values = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
};
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const COLOURS = DATA.colours, VIEWS = ["map", "competition", "affinity", "mask", "truth"];

const model = makeModel({ ...DATA.model, weights: bytesOf(DATA.weights) });
const images = DATA.images.map((image) => {
  const [pixels, truth] = [bytesOf(image.pixels), bytesOf(image.truth)];
  return { name: image.name, classes: image.classes, pixels, truth, opened: null };
});
const start = { ...DATA.prompts, off: [] };
let state = { ...structuredClone(start), image: 0, view: "map", shown: null, cell: 78, language: "en" };
let run = 0; // an edit ends the numbers that are on their way
let scored = ""; // the words whose IoU is shown, or on its way
let atStart = null; // IoU of each class with the first words

const t = (key, ...values) => values.reduce((text, value, i) => text.replace(`{${i}}`, value), TEXTS[state.language][key]);
const percent = (value, digits = 1) => (Number.isNaN(value) ? "–" : (100 * value).toFixed(digits));
const opened = (i) => (images[i].opened ??= model.open(images[i].pixels));
const pause = () => new Promise((go) => setTimeout(go));

function sentences(phrase, words = state) {
  const templates = [words.template].flat(), parts = words.fusion === "feature" ? phrase.split(/\s*,\s*/).filter(Boolean) : [phrase];
  return templates.flatMap((template) => parts.map((part) => template.replaceAll("{}", part)));
}

const phraseOf = (k, words = state) => words.synonyms?.[words.classes[k]] ?? words.classes[k];
const used = (words = state) => words.backgrounds.filter((word) => !words.off.includes(word));

function resultOf(i, words = state) {
  const classes = images[i].classes.map((k) => sentences(phraseOf(k, words), words));
  return model.maps(opened(i), classes, used(words).map((word) => sentences(word, words)));
}

// -- what may be asked --------------------------------------------------------------------

function checked(words) {
  const fail = (key, ...values) => {
    throw new Error(t(key, ...values));
  };
  const unknownKey = Object.keys(words).find((key) => ![...DATA.fields, "made_by"].includes(key));
  if (unknownKey) fail("badKey", unknownKey);
  for (const key of ["classes", "backgrounds"]) {
    const list = words[key];
    if (!Array.isArray(list) || list.some((word) => typeof word !== "string" || !word.trim())) fail("badList", t(key));
    const lower = list.map((word) => word.toLowerCase());
    const twice = list.find((_, i) => lower.indexOf(lower[i]) < i);
    if (twice) fail("twice", t(key), twice);
  }
  if (words.classes.length !== start.classes.length) fail("count", words.classes.length, start.classes.length);
  for (const [name, phrase] of Object.entries(words.synonyms ?? {}))
    if (!words.classes.includes(name) || typeof phrase !== "string" || !phrase.trim()) fail("badKey", name);
  const objects = words.classes.flatMap((name, k) => [name, phraseOf(k, words)]).map((name) => name.toLowerCase());
  const object = words.backgrounds.find((word) => objects.includes(word.toLowerCase()));
  if (object) fail("isClass", object);
  if (![words.template].flat().every((text) => typeof text === "string" && text.split("{}").length === 2)) fail("badTemplate");
  return words;
}

function edit(change) {
  try {
    const next = checked({ ...wordsOf(state), ...change });
    state = { ...state, ...next };
    state.off = state.off.filter((word) => state.backgrounds.includes(word));
    say("");
    draw();
  } catch (error) {
    say(error.message);
  }
}

const wordsOf = (from) => Object.fromEntries(DATA.fields.filter((key) => key in from).map((key) => [key, from[key]]));
const listed = (text) => text.split(/[,;\uff0c\uff1b\u3001\n]/).map((word) => word.trim()).filter(Boolean);
const say = (text) => ($("problem").textContent = text);

// -- drawing ------------------------------------------------------------------------------

function draw() {
  const began = performance.now(), image = images[state.image];
  if (!image.classes.includes(state.shown)) state.shown = image.classes[0];
  const found = resultOf(state.image);
  paint(image, found);
  const seen = [...image.classes.map((k) => sentences(phraseOf(k))), ...used().map((word) => sentences(word))].flat();
  const unread = [...new Set(seen.flatMap(model.unknown))];
  $("said").textContent = [t("took", Math.round(performance.now() - began)), unread.length ? t("unread", unread.join(", ")) : ""].join(" ");
  drawWords(image, found);
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(shared()))}`);
  window.results = { ...window.results, found, milliseconds: performance.now() - began };
  score();
}

function shared() {
  const words = wordsOf(state);
  for (const key of Object.keys(words)) if (JSON.stringify(words[key]) === JSON.stringify(start[key])) delete words[key];
  return { ...words, off: state.off, image: images[state.image].name, view: state.view, language: state.language };
}

function paint(image, found) {
  const { side } = model, names = state.classes.map((_, k) => phraseOf(k)), legend = new Map();
  pixelsTo($("left"), side, (i) => rgb(image, i));
  $("left").setAttribute("aria-label", t("altImage", image.classes.map((k) => names[k]).join(", ")));
  const step = side / model.grid, cellAt = (i) => Math.floor(Math.floor(i / side) / step) * model.grid + Math.floor((i % side) / step);
  const over = (map, most) => (i) => mixed(Array(3).fill(rgb(image, i).reduce((a, b) => a + b) / 3), viridis(map[i] / most), 0.6);
  let colour, said;
  if (state.view === "map") {
    const map = found.full[image.classes.indexOf(state.shown)];
    colour = over(map, 1);
    said = t("altMap", names[state.shown], Math.round((100 * map.filter((value) => value > 0.4).length) / map.length));
  } else if (state.view === "affinity") {
    const { grid } = model, row = opened(state.image).attention.subarray(state.cell * grid ** 2, (state.cell + 1) * grid ** 2);
    const most = row.reduce((a, b) => Math.max(a, b)), shown = over(enlarge(row, grid, side), most);
    colour = (i) => (cellAt(i) === state.cell ? [255, 0, 0] : shown(i));
    said = t("altAffinity", Math.floor(state.cell / grid) + 1, (state.cell % grid) + 1, row.filter((value) => value > 0.1 * most).length);
  } else if (state.view === "competition") {
    const texts = [...image.classes.map((k) => names[k]), ...used()];
    const cells = model.claims(opened(state.image), image.classes.map((k) => sentences(names[k])), used().map((word) => sentences(word)));
    const wins = [...new Set(cells)].sort((a, b) => cells.filter((x) => x === b).length - cells.filter((x) => x === a).length);
    wins.forEach((word, place) => legend.set(texts[word], 1 + (place % 8)));
    colour = (i, x, y) => hatched(rgb(image, i), 1 + (wins.indexOf(cells[cellAt(i)]) % 8), x, y);
    said = t("altCells", wins.slice(0, 5).map((word) => `${texts[word]} ${cells.filter((x) => x === word).length}`).join(", "));
  } else {
    const mask = state.view === "truth" ? image.truth : maskOf(found.full, image.classes, DATA.rule);
    const values = [...new Set(mask)].filter((value) => value > 0 && value < 255);
    values.forEach((value) => legend.set(names[value - 1], value));
    colour = (i, x, y) => (mask[i] ? hatched(rgb(image, i), mask[i], x, y) : mixed(rgb(image, i), [255, 255, 255], 0.5));
    said = t("altMask", values.map((v) => `${names[v - 1]} ${Math.round((100 * mask.filter((x) => x === v).length) / mask.length)} %`).join(", "));
  }
  pixelsTo($("right"), side, colour);
  $("right").setAttribute("aria-label", said);
  $("right").tabIndex = state.view === "affinity" ? 0 : -1;
  $("caption").textContent = said;
  $("legend").replaceChildren(...[...legend].map(([name, value]) => {
    const swatch = make("canvas", { width: 24, height: 16 });
    pixelsTo(swatch, 24, (_, x, y) => hatched([200, 200, 200], value, x, y), 16);
    return make("li", {}, swatch, name);
  }));
}

// Fill a canvas from a function of the image's pixel and of the place on the canvas.
function pixelsTo(canvas, side, colour, rows = side) {
  const { width, height } = canvas, context = canvas.getContext("2d"), drawn = context.createImageData(width, height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = Math.floor((y * rows) / height) * side + Math.floor((x * side) / width);
      drawn.data.set([...colour(i, x, y), 255], 4 * (y * width + x));
    }
  context.putImageData(drawn, 0, 0);
}

const rgb = ({ pixels }, i) => [0, 1, 2].map((c) => pixels[c * model.side ** 2 + i]);
const mixed = (below, above, share) => below.map((value, c) => value * (1 - share) + above[c] * share);
const viridis = (value) => DATA.viridis[Math.min(255, Math.floor(256 * value))];

// A colour with stripes of its own, so that classes are told apart without colour.
function hatched(below, value, x, y) {
  const stripes = [(x + y) % 8, (x - y + 8000) % 8, x % 8, y % 8, (x + y) % 16, (x - y + 8000) % 16, x % 16, y % 16];
  return mixed(below, stripes[(value - 1) % 8] < 2 ? [0, 0, 0] : COLOURS[(value - 1) % 8], 0.65);
}

function row(name, value, share, press) {
  const bar = make("span", { className: share < 0 ? "bar against" : "bar" });
  bar.style.width = `${Math.min(100, 100 * Math.abs(share))}%`;
  const head = press ? make("button", { type: "button", textContent: name, onclick: press.go }) : name;
  if (press) head.setAttribute("aria-pressed", press.off);
  const cells = [make("th", { scope: "row" }, head), make("td", { className: "number", textContent: value }), make("td", {}, bar)];
  return make("tr", {}, ...cells);
}

function drawWords(image, { probs }) {
  const words = [...image.classes.map((k) => phraseOf(k)), ...used()];
  const value = new Map(words.map((word, i) => [word, probs[i]]));
  const rows = [...image.classes.map((k) => row(phraseOf(k), `${percent(value.get(phraseOf(k)))} %`, value.get(phraseOf(k))))];
  for (const word of state.backgrounds) {
    const off = state.off.includes(word), go = () => toggle(word);
    rows.push(row(word, off ? t("off") : `${percent(value.get(word))} %`, off ? 0 : value.get(word), { off, go }));
  }
  const kept = document.activeElement?.closest("#probs") && document.activeElement.textContent;
  $("probs").replaceChildren(...rows);
  if (kept) [...$("probs").querySelectorAll("button")].find((each) => each.textContent === kept)?.focus();
  for (const [id, text] of [["backgrounds", state.backgrounds.join(", ")], ["classes", state.classes.map((_, k) => phraseOf(k).replaceAll(",", ";")).join(", ")], ["template", [state.template].flat().join(" | ")]])
    if (document.activeElement !== $(id)) $(id).value = text;
  $("class").replaceChildren(...image.classes.map((k) => make("option", { value: k, textContent: phraseOf(k), selected: k === state.shown })));
  $("class").disabled = state.view !== "map";
}

function toggle(word) {
  state.off = state.off.includes(word) ? state.off.filter((each) => each !== word) : [...state.off, word];
  draw();
}

// -- numbers over all images --------------------------------------------------------------

// IoU of background and classes over all images, one image at a time; null if an edit came.
async function iouOf(words, number, progress = () => {}) {
  const K = 1 + words.classes.length, hit = new Float64Array(K), any = new Float64Array(K);
  for (let i = 0; i < images.length; i++) {
    progress(i);
    await pause();
    if (number !== run) return null;
    const mask = maskOf(resultOf(i, words).full, images[i].classes, DATA.rule);
    images[i].truth.forEach((truth, p) => {
      if (truth === 255) return;
      any[truth]++;
      if (mask[p] === truth) hit[truth]++;
      else any[mask[p]]++;
    });
  }
  return Array.from(hit, (value, k) => value / any[k]);
}

const meanOf = (values) => {
  const known = values.filter((value) => !Number.isNaN(value));
  return known.reduce((a, b) => a + b, 0) / known.length;
};

async function score() {
  const words = JSON.stringify([wordsOf(state), state.off, state.language]);
  if (words === scored) return; // another image or view changes no number
  scored = words;
  const number = ++run;
  window.results.scores = null;
  $("worth").replaceChildren();
  const progress = (i) => ($("of-images").textContent = t("scoring", i + 1, images.length));
  atStart ??= await iouOf({ ...start }, number, progress);
  const now = atStart && (await iouOf(structuredClone(state), number, progress));
  if (!now) return;
  const change = (k, a = now[k], b = atStart[k]) => (Math.abs(a - b) < 5e-4 || Number.isNaN(a - b) ? "" : ` (${a > b ? "+" : "−"}${percent(Math.abs(a - b))})`);
  const names = [t("background"), ...state.classes.map((_, k) => phraseOf(k))];
  const rows = names.map((name, k) => row(name, `${percent(now[k])}${change(k)}`, now[k] || 0));
  $("scores").replaceChildren(row(t("mean"), `${percent(meanOf(now))}${change(0, meanOf(now), meanOf(atStart))}`, meanOf(now)), ...rows);
  $("of-images").textContent = t("ofImages", images.length, ruleText());
  window.results.scores = { now, mean: meanOf(now) };
}

const ruleText = () => (DATA.rule.power ? `(1 − max)^${DATA.rule.power}` : t("constant", DATA.rule.threshold));

async function leaveOneOut() {
  const number = ++run, words = structuredClone(state);
  scored = "";
  for (let i = 0; i < images.length; i++) {
    for (const text of [...images[i].classes.map((k) => phraseOf(k)), ...used()]) model.keep(opened(i), sentences(text));
    $("of-images").textContent = t("scoring", i + 1, images.length);
    await pause();
    if (number !== run) return;
  }
  const worth = [], whole = meanOf((await iouOf(words, number)) ?? []);
  for (const word of used(words)) {
    const without = await iouOf({ ...words, off: [...words.off, word] }, number, (i) => ($("of-images").textContent = t("leaving", word, i + 1, images.length)));
    if (!without) return;
    worth.push([word, whole - meanOf(without)]);
  }
  worth.sort((a, b) => b[1] - a[1]);
  const most = Math.max(...worth.map(([, value]) => Math.abs(value)), 1e-9);
  $("worth").replaceChildren(...worth.map(([word, value]) => row(word, `${value < 0 ? "−" : "+"}${percent(Math.abs(value))}`, value / most)));
  $("of-images").textContent = t("worth");
  window.results.worth = Object.fromEntries(worth);
}

// -- events -------------------------------------------------------------------------------

function translate() {
  document.documentElement.lang = state.language;
  document.title = t("title");
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  const other = state.language === "en" ? "zh" : "en";
  Object.assign($("language"), { textContent: TEXTS[other].name, lang: other });
  $("view").replaceChildren(...VIEWS.map((view) => make("option", { value: view, textContent: t(view), selected: view === state.view })));
  images.forEach((image, i) => $("images").querySelectorAll("input")[i].setAttribute("aria-label", t("imageOf", i + 1, image.classes.map((k) => start.classes[k]).join(", "))));
}

function take(values) {
  const { image, view, language, off, ...words } = values;
  state = { ...state, ...checked({ ...wordsOf(start), ...words }) };
  const i = images.findIndex((each) => each.name === image);
  if (i >= 0) state.image = i;
  if (VIEWS.includes(view)) state.view = view;
  if (language in TEXTS) state.language = language;
  state.off = (Array.isArray(off) ? off : []).filter((word) => state.backgrounds.includes(word));
}

function listen() {
  images.forEach((image, i) => {
    const canvas = make("canvas", { width: 96, height: 96 });
    pixelsTo(canvas, model.side, (p) => rgb(image, p));
    const input = make("input", { type: "radio", name: "image", checked: i === state.image, onchange: () => { state.image = i; draw(); } });
    $("images").append(make("label", {}, input, canvas));
  });
  $("class").onchange = () => { state.shown = Number($("class").value); draw(); };
  $("view").onchange = () => { state.view = $("view").value; draw(); };
  const move = (y, x) => {
    if (state.view !== "affinity" || Math.min(y, x) < 0 || Math.max(y, x) >= model.grid) return;
    state.cell = y * model.grid + x;
    paint(images[state.image], window.results.found);
  };
  $("right").onclick = ({ offsetX, offsetY }) => move(...[offsetY, offsetX].map((at) => Math.floor((at / $("right").clientWidth) * model.grid)));
  $("right").onkeydown = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || state.view !== "affinity") return;
    event.preventDefault();
    move(Math.floor(state.cell / model.grid) + step[0], (state.cell % model.grid) + step[1]);
  };
  $("backgrounds").oninput = () => edit({ backgrounds: listed($("backgrounds").value) });
  $("classes").oninput = () => {
    const phrases = $("classes").value.split(/[,\uff0c\n]/).map((word) => word.trim().replace(/\s*;\s*/g, ",")).filter(Boolean);
    if (phrases.length !== start.classes.length) return say(t("count", phrases.length, start.classes.length));
    const synonyms = phrases.map((phrase, k) => [start.classes[k], phrase]).filter(([name, phrase]) => name !== phrase);
    edit({ classes: start.classes, synonyms: Object.fromEntries(synonyms) });
  };
  $("template").oninput = () => {
    const templates = $("template").value.split("|").map((text) => text.trim());
    edit({ template: templates.length > 1 ? templates : templates[0] });
  };
  $("start").onclick = () => { state = { ...state, synonyms: {}, fusion: undefined, ...structuredClone(start) }; edit({}); };
  $("leave").onclick = leaveOneOut;
  $("language").onclick = () => { state.language = state.language === "en" ? "zh" : "en"; translate(); draw(); };
  $("save").onclick = () => {
    const words = { ...wordsOf(state), backgrounds: used() };
    const url = URL.createObjectURL(new Blob([JSON.stringify(words, null, 2) + "\n"], { type: "application/json" }));
    make("a", { href: url, download: "prompts.json" }).click();
    $("said").textContent = t("saved");
  };
  $("load").onchange = async () => {
    const [file] = $("load").files;
    $("load").value = "";
    try {
      const { made_by, ...words } = JSON.parse(await file.text());
      if (JSON.stringify(words.classes) !== JSON.stringify(start.classes)) throw new Error(t("otherClasses", start.classes.join(", ")));
      take({ ...words, image: images[state.image].name });
      say("");
      draw();
    } catch (error) {
      say(t("badFile", file.name, error.message));
    }
  };
  $("share").onclick = async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      $("said").textContent = t("copied");
    } catch {
      $("said").textContent = t("inBar");
    }
  };
}

try {
  if (location.hash.length > 1) take(JSON.parse(decodeURIComponent(location.hash.slice(1))));
} catch (error) {
  say(error.message);
}
listen();
translate();
draw();

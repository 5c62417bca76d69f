/** The page: puts the parts together. */

import { askJson, connection, pause } from "./service.js";
import { Pictures } from "./pictures.js";
import { Viewer } from "./viewer.js";
import { Legend, colorOf, percent } from "./legend.js";
import { Strip } from "./strip.js";

const $ = (id) => document.getElementById(id);
const pictures = new Pictures();
const legend = new Legend($("legend").querySelector("ul"));
const stage = $("stage");
const viewer = new Viewer(stage, $("viewer"), $("overlay"), () => showHover(), (picture) => pictures.check(picture));
new Strip($("strip").querySelector("ul"), pictures);

let models = [];
let pointer = null;
const opacities = { overlay: 55, swipe: 100 };
let mode = "overlay";
let off = false;

// ---- what comes in ----

const fields = [$("file"), $("first-file"), $("photo")];

function take(field) {
  pictures.add(field.files);
  field.value = "";
}

for (const field of fields) field.addEventListener("change", () => take(field));

document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  if (files.length) {
    event.preventDefault();
    pictures.add(files);
  } else {
    say("There is no image in the clipboard.");
  }
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  pictures.add(event.dataTransfer.files);
});

function showExamples() {
  const model = models.find(({ name }) => name === pictures.model);
  const examples = model?.examples ?? [];
  $("examples").hidden = !examples.length;
  $("example-list").replaceChildren(
    ...examples.map((address, place) => {
      const button = document.createElement("button");
      const image = document.createElement("img");
      button.className = "example";
      image.src = address;
      image.alt = `Example ${place + 1}`;
      button.append(image);
      button.addEventListener("click", async () => {
        const body = await (await fetch(address)).blob();
        pictures.add([new File([body], address.split("/").at(-1), { type: body.type })]);
      });
      return button;
    }),
  );
}

// ---- the image that is looked at ----

pictures.addEventListener("list", () => {
  document.body.classList.toggle("empty", !pictures.all.length);
  document.body.classList.toggle("several", pictures.all.length > 1);
});
pictures.addEventListener("select", showPicture);
pictures.addEventListener("change", ({ detail }) => {
  if (detail === pictures.current) showPicture();
  announce(detail);
});

function showPicture() {
  const picture = pictures.current;
  document.title = picture ? `${picture.name} – fullyconv` : "fullyconv";
  $("name").textContent = picture?.name ?? "";
  $("facts").textContent = picture ? factsOf(picture) : "";
  if (picture?.info) legend.show(picture.info.classes);
  else legend.show(null);
  showSummary(picture);
  viewer.show(picture);
  showProgress(picture);
  showNotice(picture);
  const ready = picture?.state === "done";
  for (const kind of ["mask", "overlay", "geojson"]) {
    const link = $(`get-${kind}`);
    if (ready) link.href = `/images/${picture.info.id}/download/${kind}`;
    else link.removeAttribute("href");
    link.setAttribute("aria-disabled", !ready);
  }
}

/** What the folded sheet of a phone says. */
function showSummary(picture) {
  const found = (picture?.info?.classes ?? []).filter((entry) => entry.pixels);
  found.sort((a, b) => b.pixels - a.pixels);
  const entries = found.map((entry) => {
    const item = document.createElement("em");
    const swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.backgroundColor = colorOf(entry);
    item.append(swatch, `${entry.name} ${percent(entry.share)}`);
    return item;
  });
  $("summary").replaceChildren(...(entries.length ? entries : ["Classes"]));
}

function factsOf(picture) {
  const { info, state } = picture;
  if (state === "failed") return "could not be opened";
  if (state === "waiting") return "waiting";
  if (state === "sending") return `sending, ${Math.round(100 * picture.sent)} %`;
  if (!info) return "being read";
  const size = `${info.width.toLocaleString("en")} × ${info.height.toLocaleString("en")} pixels`;
  if (state === "done") return size;
  return info.share ? `${size}, ${Math.floor(100 * info.share)} % predicted` : `${size}, not predicted yet`;
}

function showProgress(picture) {
  const busy = picture && ["waiting", "sending", "reading", "predicting"].includes(picture.state);
  const bar = $("progress");
  bar.hidden = !busy;
  if (!busy) return;
  const share = picture.state === "sending" ? picture.sent : picture.share;
  bar.classList.toggle("unknown", ["waiting", "reading"].includes(picture.state) || !share);
  bar.setAttribute("aria-valuenow", Math.round(100 * share));
  bar.setAttribute("aria-label", picture.state);
  bar.firstElementChild.style.width = `${100 * share}%`;
}

function showNotice(picture) {
  const notice = $("notice");
  const words = { waiting: "Waiting to be sent …", sending: "Sending …", reading: "Reading the image …" };
  const failed = picture?.state === "failed";
  const text = failed ? `${picture.name} could not be opened` : words[picture?.state];
  notice.hidden = !text;
  notice.classList.toggle("error", failed);
  notice.querySelector("h2").textContent = text ?? "";
  notice.querySelector("p").textContent = failed ? picture.error : "";
  $("again").hidden = !failed;
}

$("again").addEventListener("click", () => pictures.retry(pictures.current));
$("close").addEventListener("click", () => pictures.remove(pictures.current));

const announced = new WeakMap();
function announce(picture) {
  if (announced.get(picture) === picture.state || !["predicting", "done", "failed"].includes(picture.state)) return;
  announced.set(picture, picture.state);
  if (picture.state === "predicting") say(`${picture.name} is being predicted.`);
  if (picture.state === "failed") say(`${picture.name}: ${picture.error}`);
  if (picture.state === "done") {
    const found = picture.info.classes.filter((entry) => entry.pixels).sort((a, b) => b.pixels - a.pixels);
    const shares = found.map((entry) => `${entry.name} ${percent(entry.share)}`);
    say(`${picture.name} is predicted: ${shares.join(", ")}.`);
  }
}

function say(text) {
  $("live").textContent = text;
}

// ---- classes, opacity, swipe ----

legend.addEventListener("change", () => viewer.hide(legend.classes, legend.hidden));
$("all").addEventListener("click", () => legend.toggleAll());

function showOpacity() {
  const value = opacities[mode];
  $("opacity").value = value;
  $("opacity-value").textContent = off ? "off" : `${value} %`;
  viewer.setOpacity(off ? 0 : value / 100);
}

function setOpacity(value) {
  off = false;
  opacities[mode] = Math.min(Math.max(value, 0), 100);
  showOpacity();
}

$("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));

function setMode(name) {
  mode = name;
  off = false;
  const swiping = mode === "swipe";
  $("mode-overlay").setAttribute("aria-pressed", !swiping);
  $("mode-swipe").setAttribute("aria-pressed", swiping);
  $("divider").hidden = !swiping;
  legend.setMode(mode);
  if (swiping) setDivider(0.5);
  else viewer.setSwipe(null);
  showOpacity();
}

function setDivider(share) {
  const kept = Math.min(Math.max(share, 0), 1);
  $("divider").style.left = `${100 * kept}%`;
  $("divider").setAttribute("aria-valuenow", Math.round(100 * kept));
  viewer.setSwipe(kept);
}

$("mode-overlay").addEventListener("click", () => setMode("overlay"));
$("mode-swipe").addEventListener("click", () => setMode("swipe"));

const divider = $("divider");
divider.addEventListener("pointerdown", (event) => {
  divider.setPointerCapture(event.pointerId);
  event.preventDefault();
  divider.focus({ preventScroll: true });
});
divider.addEventListener("pointermove", (event) => {
  if (!divider.hasPointerCapture(event.pointerId)) return;
  const { left, width } = stage.getBoundingClientRect();
  setDivider((event.clientX - left) / width);
});
divider.addEventListener("keydown", (event) => {
  const now = Number(divider.getAttribute("aria-valuenow"));
  const to = { ArrowLeft: now - 2, ArrowRight: now + 2, ArrowDown: now - 10, ArrowUp: now + 10, Home: 0, End: 100 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  setDivider(to / 100);
});

// ---- what is under the pointer ----

function pointAt(event) {
  pointer = [event.clientX, event.clientY];
  $("cross").hidden = true;
  showHover();
}

stage.addEventListener("pointermove", pointAt);
stage.addEventListener("pointerdown", pointAt);
stage.addEventListener("pointerleave", (event) => {
  if (event.pointerType !== "mouse" || !$("cross").hidden) return;
  pointer = null;
  showHover();
});

/** Point at the centre, for who has no pointer, and say what is there. */
async function lookAtCentre() {
  const { left, top, width, height } = stage.getBoundingClientRect();
  pointer = [left + width / 2, top + height / 2];
  $("cross").hidden = false;
  showHover();
  await pause(400); // the confidence may be on its way
  say($("hover").hidden ? "The centre is outside of the image." : [...$("hover").children].map((part) => part.textContent).join(" "));
}

function showHover() {
  const hover = $("hover");
  const at = pointer && viewer.mask ? viewer.pixelAt(...pointer) : null;
  hover.hidden = !at;
  if (!at) return;
  const { index, confidence } = viewer.read(at);
  const entry = index === null ? null : legend.classes[index];
  const swatch = document.createElement("i");
  swatch.className = "swatch";
  if (entry) swatch.style.backgroundColor = colorOf(entry);
  const words = document.createElement("b");
  words.textContent = entry ? entry.name : "not predicted yet";
  const sure = document.createElement("span");
  sure.textContent = entry && confidence !== null ? `${Math.round(100 * confidence)} % sure` : "";
  const place = document.createElement("span");
  place.className = "place";
  place.textContent = `x ${at.x}, y ${at.y}`;
  hover.replaceChildren(...(entry ? [swatch] : []), words, sure, place);
}

// ---- buttons and keys ----

$("zoom-in").addEventListener("click", () => viewer.zoomBy(1.6));
$("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.6));
$("zoom-fit").addEventListener("click", () => viewer.fit());
$("zoom-pixels").addEventListener("click", () => viewer.oneToOne());
$("help-button").addEventListener("click", () => $("help").showModal());
$("help").addEventListener("click", (event) => {
  if (event.target === $("help")) $("help").close();
});
$("sheet").addEventListener("click", () => {
  const open = document.body.classList.toggle("sheet-open");
  $("sheet").setAttribute("aria-expanded", open);
});

const STEP = 80;
const KEYS = {
  "+": () => viewer.zoomBy(1.4),
  "=": () => viewer.zoomBy(1.4),
  "-": () => viewer.zoomBy(1 / 1.4),
  0: () => viewer.fit(),
  x: () => viewer.oneToOne(),
  ArrowLeft: () => viewer.panBy(-STEP, 0),
  ArrowRight: () => viewer.panBy(STEP, 0),
  ArrowUp: () => viewer.panBy(0, -STEP),
  ArrowDown: () => viewer.panBy(0, STEP),
  c: lookAtCentre,
  o: () => {
    off = !off;
    showOpacity();
  },
  "[": () => setOpacity(opacities[mode] - 10),
  "]": () => setOpacity(opacities[mode] + 10),
  s: () => setMode(mode === "swipe" ? "overlay" : "swipe"),
  a: () => legend.toggleAll(),
  ",": () => pictures.step(-1),
  ".": () => pictures.step(1),
  Delete: () => pictures.current && pictures.remove(pictures.current),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (event.key === "?") {
    $("help").showModal();
    return;
  }
  if (!pictures.all.length || event.target.matches("select")) return;
  if (event.target.matches("input[type=range]") && (event.key.startsWith("Arrow") || event.key === "Home")) return;
  if (/^[1-9]$/.test(event.key)) {
    legend.toggle(Number(event.key) - 1);
    return;
  }
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// ---- the service ----

connection.addEventListener("lost", () => {
  $("banner").textContent = "The service is not reachable. Trying again; your images are kept.";
  $("banner").hidden = false;
});
connection.addEventListener("back", () => {
  $("banner").hidden = true;
  say("The service is reachable again.");
  begin();
});

$("model").addEventListener("change", (event) => {
  pictures.use(event.target.value);
  showExamples();
});

async function begin() {
  let about;
  try {
    about = await askJson("/page/about");
  } catch {
    return; // tried again when it is back
  }
  models = about.models;
  const names = models.map(({ name }) => name);
  pictures.begin(names, about.body_bytes);
  $("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === pictures.model)));
  $("model-label").classList.toggle("one", names.length < 2);
  showExamples();
}

addEventListener("pagehide", (event) => {
  if (!event.persisted) pictures.leave();
});

$("camera").hidden = !matchMedia("(pointer: coarse)").matches;
showOpacity();
fields.forEach(take); // what was chosen while this was loaded
begin();

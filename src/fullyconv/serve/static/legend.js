/** The classes: colours, names, areas, and which of them are shown. */

const FAINT = 64;

/** Fires "change" when classes are switched. */
export class Legend extends EventTarget {
  constructor(list) {
    super();
    this.list = list;
    this.classes = [];
    this.hiddenBy = { overlay: new Set(), swipe: new Set() };
    this.mode = "overlay";
  }

  /** Indices of classes that are not shown: each mode has its own. */
  get hidden() {
    return this.hiddenBy[this.mode];
  }

  setMode(mode) {
    this.mode = mode;
    this.#update();
  }

  /** Take the classes of a model with what an image has of them; null: of no image. */
  show(classes) {
    const names = (entries) => JSON.stringify(entries.map(({ name, color }) => [name, color]));
    if (classes && names(classes) !== names(this.classes)) {
      this.classes = classes;
      // Backgrounds are nearly black by custom; in overlays they leave the image as it is.
      const faint = classes.filter(isFaint).map((entry) => entry.index);
      this.hiddenBy = { overlay: new Set(faint.length < classes.length ? faint : []), swipe: new Set() };
      this.#build();
      this.dispatchEvent(new Event("change"));
    }
    for (const [place, item] of [...this.list.children].entries()) {
      const entry = classes?.[place];
      item.classList.toggle("absent", !entry?.pixels);
      item.querySelector(".share").textContent = entry?.pixels ? percent(entry.share) : "–";
      item.querySelector(".pixels").textContent = entry?.pixels ? `${entry.pixels.toLocaleString("en")} px` : "";
      item.querySelector("meter").value = entry?.share ?? 0;
    }
  }

  toggle(index) {
    if (!this.classes[index]) return false;
    if (!this.hidden.delete(index)) this.hidden.add(index);
    this.#update();
    return true;
  }

  /** All on, or all off where they are on. */
  toggleAll() {
    const all = this.classes.map((entry) => entry.index);
    this.hiddenBy[this.mode] = new Set(this.hidden.size ? [] : all);
    this.#update();
  }

  #update() {
    for (const [place, box] of [...this.list.querySelectorAll("input")].entries()) {
      box.checked = !this.hidden.has(place);
    }
    this.dispatchEvent(new Event("change"));
  }

  #build() {
    this.list.replaceChildren(
      ...this.classes.map((entry, place) => {
        const item = document.createElement("li");
        item.innerHTML =
          '<label><input type="checkbox"><i class="swatch"></i><span class="class"></span>' +
          '<span class="share"></span><meter min="0" max="1" aria-hidden="true"></meter><span class="pixels"></span></label>';
        item.querySelector(".class").textContent = entry.name;
        item.querySelector(".swatch").style.backgroundColor = colorOf(entry);
        const box = item.querySelector("input");
        box.checked = !this.hidden.has(place);
        box.addEventListener("change", () => this.toggle(place));
        if (place < 9) item.querySelector("label").title = `Key ${place + 1}`;
        return item;
      }),
    );
  }
}

export const colorOf = ({ color }) => `rgb(${color.join(" ")})`;

export const percent = (share) => {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
};

const isFaint = ({ color }) => Math.max(...color) < FAINT;

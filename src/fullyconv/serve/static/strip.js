/** The images in a strip: a thumbnail each, how far it is, a button to close it. */

export class Strip {
  constructor(list, pictures) {
    this.list = list;
    this.pictures = pictures;
    this.items = new Map();
    pictures.addEventListener("list", () => this.#list());
    pictures.addEventListener("select", () => this.#select());
    pictures.addEventListener("change", ({ detail }) => this.#update(detail));
  }

  #list() {
    for (const [picture, item] of this.items) {
      if (!this.pictures.all.includes(picture)) {
        item.remove();
        this.items.delete(picture);
      }
    }
    for (const picture of this.pictures.all) {
      if (!this.items.has(picture)) {
        const item = this.#made(picture);
        this.items.set(picture, item);
        this.list.append(item);
        this.#update(picture);
      }
    }
  }

  #made(picture) {
    const item = document.createElement("li");
    item.innerHTML =
      '<button class="thumb"><img alt="" hidden><span class="bar"><i></i></span><span class="caption"></span></button>' +
      '<button class="close" title="Close"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="m4 4 8 8M12 4l-8 8"/></svg></button>';
    const [thumb, close] = item.querySelectorAll("button");
    thumb.title = picture.name;
    item.querySelector(".caption").textContent = picture.name;
    thumb.addEventListener("click", () => this.pictures.select(picture));
    close.setAttribute("aria-label", `Close ${picture.name}`);
    close.addEventListener("click", () => this.pictures.remove(picture));
    item.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      this.pictures.step(by);
      this.items.get(this.pictures.current)?.querySelector(".thumb").focus();
    });
    return item;
  }

  #select() {
    for (const [picture, item] of this.items) {
      const current = picture === this.pictures.current;
      item.querySelector(".thumb").setAttribute("aria-current", current);
      if (current) item.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  #update(picture) {
    const item = this.items.get(picture);
    if (!item) return;
    item.dataset.state = picture.state;
    const share = { sending: 0.3 * picture.sent, reading: 0.3, predicting: 0.3 + 0.7 * picture.share, done: 1 };
    item.querySelector(".bar i").style.width = `${100 * (share[picture.state] ?? 0)}%`;
    item.querySelector(".thumb").setAttribute("aria-label", `${picture.name}: ${picture.state}`);
    const image = item.querySelector("img");
    if (picture.info && image.dataset.id !== picture.info.id) {
      image.dataset.id = picture.info.id;
      image.src = `/images/${picture.info.id}/image/${picture.info.levels - 1}/0_0`;
      image.hidden = false;
    }
  }
}

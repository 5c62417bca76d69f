/** The images of this page: what was chosen, what the service knows of it, and what is to be sent. */

import { ask, askJson, connection, pause, upload } from "./service.js";

const POLL_MILLISECONDS = 500;
const MOST_REVIVALS = 3;
const MOST_BREAKS = 3;
const FORM_BYTES = 4096;

/** States: waiting, sending, reading, predicting, done, failed. */
class Picture {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted image";
    this.revivals = 0;
    this.breaks = 0;
    this.wait();
  }

  wait() {
    this.state = "waiting";
    this.sent = 0;
    this.info = null;
    this.error = "";
    this.uploading = new AbortController();
  }

  get share() {
    return this.info ? this.info.share : 0;
  }
}

/** Fires "list" when images come or go, "select" when another one is looked at, "change" (detail: picture). */
export class Pictures extends EventTarget {
  constructor() {
    super();
    this.all = [];
    this.current = null;
    this.model = "";
    this.mostBytes = Infinity;
    this.busy = false;
    this.polling = false;
    connection.addEventListener("back", () => this.#comeBack());
  }

  /** Begin to send, once it is known which models there are, and how long a request may be. */
  begin(models, mostBytes) {
    if (!models.includes(this.model)) this.model = models[0];
    this.mostBytes = mostBytes;
    this.#send();
  }

  add(files) {
    const added = [...files].map((file) => new Picture(file));
    if (!added.length) return;
    this.all.push(...added);
    this.dispatchEvent(new Event("list"));
    this.select(added[0]);
    this.#send();
  }

  remove(picture) {
    const place = this.all.indexOf(picture);
    if (place < 0) return;
    this.all.splice(place, 1);
    picture.uploading.abort();
    if (picture.info) ask(`/images/${picture.info.id}`, { method: "DELETE" }).catch(() => {});
    this.dispatchEvent(new Event("list"));
    if (picture === this.current) this.select(this.all[Math.min(place, this.all.length - 1)] ?? null);
  }

  select(picture) {
    if (picture === this.current) return;
    this.current = picture;
    if (picture) picture.revivals = 0;
    this.dispatchEvent(new Event("select"));
    if (picture?.state === "done") this.#look(picture);
  }

  step(by) {
    const place = this.all.indexOf(this.current) + by;
    if (this.all[place]) this.select(this.all[place]);
  }

  retry(picture) {
    picture.revivals = 0;
    picture.breaks = 0;
    picture.wait();
    this.#changed(picture);
    this.#send();
  }

  /** Let another model predict what is open. */
  use(model) {
    this.model = model;
    for (const picture of this.all) {
      picture.uploading.abort();
      if (picture.info) ask(`/images/${picture.info.id}`, { method: "DELETE" }).catch(() => {});
      picture.wait();
      this.#changed(picture);
    }
    this.dispatchEvent(new Event("select"));
    this.#send();
  }

  /** Let the service forget all, when the page is left. */
  leave() {
    for (const { info } of this.all) {
      if (info) fetch(`/images/${info.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
    }
  }

  #changed(picture) {
    this.dispatchEvent(new CustomEvent("change", { detail: picture }));
  }

  /** Send what waits, one after the other, what is looked at first. */
  async #send() {
    if (this.busy || !this.model) return;
    this.busy = true;
    for (;;) {
      const waiting = this.all.filter((picture) => picture.state === "waiting");
      const picture = waiting.includes(this.current) ? this.current : waiting[0];
      if (!picture) break;
      if (!(await this.#sendOne(picture))) break;
    }
    this.busy = false;
  }

  /** False where it makes no sense to go on before the service is back. */
  async #sendOne(picture) {
    const { signal } = picture.uploading;
    picture.state = "sending";
    this.#changed(picture);
    const refusal = await this.#refusal(picture.file);
    if (signal.aborted) return true;
    if (refusal) {
      this.#fail(picture, refusal);
      return true;
    }
    try {
      const info = await upload(
        picture.file,
        this.model,
        (share) => {
          picture.sent = share;
          picture.state = share < 1 ? "sending" : "reading";
          this.#changed(picture);
        },
        signal,
      );
      if (signal.aborted) {
        ask(`/images/${info.id}`, { method: "DELETE" }).catch(() => {});
        return true;
      }
      this.#take(picture, info);
      this.#poll();
    } catch (failure) {
      if (signal.aborted) return true;
      if (failure.unreachable && ++picture.breaks > MOST_BREAKS) {
        this.#fail(picture, "the connection broke each time that it was sent");
        return true;
      }
      if (failure.unreachable) {
        picture.state = "waiting";
        this.#changed(picture);
        return false;
      }
      if (failure.status === 503) {
        picture.state = "waiting";
        this.#changed(picture);
        await pause(1000 * (failure.retryAfter || 1));
        return true;
      }
      this.#fail(picture, failure.message);
    }
    return true;
  }

  /** Why a file need not be sent; what is too long would only break the connection. */
  async #refusal(file) {
    const most = this.mostBytes - FORM_BYTES;
    const shown = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
    if (file.size > most) return `expected a file of at most ${shown(most)}, got ${shown(file.size)}`;
    try {
      await file.slice(0, 1).arrayBuffer();
    } catch {
      return "the file cannot be read; was it moved, or is it a folder?";
    }
    return "";
  }

  #take(picture, info) {
    picture.info = info;
    picture.state = info.done ? "done" : "predicting";
    if (info.error) this.#fail(picture, info.error);
    else this.#changed(picture);
  }

  #fail(picture, message) {
    picture.state = "failed";
    picture.error = message;
    this.#changed(picture);
  }

  async #poll() {
    if (this.polling) return;
    this.polling = true;
    for (;;) {
      const open = this.all.filter((picture) => picture.state === "predicting");
      if (!open.length) break;
      for (const picture of open) {
        if (picture.state === "predicting" && !(await this.#look(picture))) {
          this.polling = false;
          return;
        }
      }
      await pause(POLL_MILLISECONDS);
    }
    this.polling = false;
  }

  /** See whether the service still has an image; if not, it is sent again. */
  check(picture) {
    if (picture.info && picture.state !== "failed") this.#look(picture);
  }

  /** Ask for the state of an image; false where the service is away. One that it does not know is sent again. */
  async #look(picture) {
    const { id } = picture.info;
    try {
      const info = await askJson(`/images/${id}`);
      if (picture.info?.id === id) this.#take(picture, info);
    } catch (failure) {
      if (picture.info?.id !== id) return true;
      if (failure.status === 404) this.#revive(picture);
      return !failure.unreachable;
    }
    return true;
  }

  #revive(picture) {
    picture.revivals += 1;
    if (picture.revivals > MOST_REVIVALS) {
      this.#fail(picture, "the service had to close this image for others");
      return;
    }
    picture.wait();
    this.#changed(picture);
    if (picture === this.current) this.dispatchEvent(new Event("select"));
    this.#send();
  }

  async #comeBack() {
    for (const picture of this.all) {
      if (picture.info && picture.state !== "failed" && !(await this.#look(picture))) return;
    }
    this.#poll();
    this.#send();
  }
}

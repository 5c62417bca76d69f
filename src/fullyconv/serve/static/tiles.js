/** Tiles of one layer of an image: fetched when they are wanted, kept while there is room, painted by class. */

import { ask } from "./service.js";
import { decodeGrey } from "./png.js";

const AT_ONCE = 6;

export class Tiles {
  /** `changed` is called when a tile has come, `missing` when the service has none. `most` tiles are kept. */
  constructor(picture, layer, most, changed, missing) {
    this.picture = picture;
    this.info = picture.info;
    this.layer = layer;
    this.most = most;
    this.changed = changed;
    this.missing = missing;
    this.held = new Map();
    this.wanted = new Map();
    this.running = 0;
    this.closed = new AbortController();
  }

  close() {
    this.closed.abort();
    this.held.clear();
    this.wanted.clear();
  }

  /** Rows of a level that are predicted. */
  rowsOf(level) {
    return Math.ceil((this.picture.info?.rows ?? 0) / 2 ** level);
  }

  /** A tile, or undefined while it is on its way. */
  get(level, column, row) {
    const key = `${level}/${column}_${row}`;
    const tile = this.held.get(key);
    if (tile) {
      this.held.delete(key); // the least recent ones come first
      this.held.set(key, tile);
    }
    const rows = Math.min(this.rowsOf(level) - row * this.info.tile, tile?.height ?? Infinity);
    if (rows > (tile?.rows ?? 0) && !tile?.loading) this.#want(key, level, row);
    return tile?.values && tile;
  }

  /** Whatever is there of a tile or, larger, of those above it: {tile, level, column, row}. */
  best(level, column, row) {
    for (let up = level; up < this.info.levels; up++) {
      const [c, r] = [column >> (up - level), row >> (up - level)];
      const tile = up === level ? this.get(up, c, r) : this.held.get(`${up}/${c}_${r}`);
      if (tile?.values) return { tile, level: up, column: c, row: r };
    }
    return null;
  }

  /** The value at a pixel of the image, by the tile of a level; undefined while it is on its way. */
  at(x, y, level) {
    const [u, v] = [Math.floor(x / 2 ** level), Math.floor(y / 2 ** level)];
    const side = this.info.tile;
    const found = this.best(level, Math.floor(u / side), Math.floor(v / side));
    if (!found) return undefined;
    const [column, row] = [Math.floor(x / 2 ** found.level), Math.floor(y / 2 ** found.level)];
    const { tile } = found;
    return tile.values[(row - found.row * side) * tile.width + column - found.column * side];
  }

  #want(key, level, row) {
    this.wanted.delete(key);
    this.wanted.set(key, { level, row });
    this.#next();
  }

  #next() {
    while (this.running < AT_ONCE && this.wanted.size) {
      const [key, place] = [...this.wanted].at(-1); // what was asked for last is looked at
      this.wanted.delete(key);
      this.#fetch(key, place);
    }
    while (this.wanted.size > this.most) this.wanted.delete(this.wanted.keys().next().value);
  }

  async #fetch(key, { level, row }) {
    const tile = this.held.get(key) ?? { rows: 0 };
    tile.loading = true;
    this.held.set(key, tile);
    this.running += 1;
    const rows = this.rowsOf(level) - row * this.info.tile;
    try {
      const response = await ask(`/images/${this.info.id}/${this.layer}/${key}`, { signal: this.closed.signal });
      Object.assign(tile, await decodeGrey(await response.arrayBuffer()), { palette: null });
      tile.rows = Math.min(rows, tile.height);
    } catch (error) {
      if (!tile.values) this.held.delete(key);
      if (error.status === 404) this.missing();
    }
    tile.loading = false;
    this.running -= 1;
    if (this.closed.signal.aborted) return;
    while (this.held.size > this.most) this.held.delete(this.held.keys().next().value);
    this.#next();
    this.changed();
  }
}

/** The canvas of a tile in the colours of a palette: 256 numbers of RGBA bytes. */
export function painted(tile, palette) {
  if (tile.palette === palette) return tile.canvas;
  tile.canvas ??= document.createElement("canvas");
  if (tile.canvas.width !== tile.width || tile.canvas.height !== tile.height) {
    tile.canvas.width = tile.width;
    tile.canvas.height = tile.height;
  }
  const context = tile.canvas.getContext("2d");
  const pixels = context.createImageData(tile.width, tile.height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let at = 0; at < words.length; at++) words[at] = palette[tile.values[at]];
  context.putImageData(pixels, 0, 0);
  tile.palette = palette;
  return tile.canvas;
}

/** A palette: opaque colours of the classes that are shown, nothing elsewhere. */
export function paletteOf(classes, hidden) {
  const bytes = new Uint8ClampedArray(1024);
  for (const entry of classes) {
    if (!hidden.has(entry.index)) bytes.set([...entry.color, 255], 4 * entry.index);
  }
  return new Uint32Array(bytes.buffer);
}

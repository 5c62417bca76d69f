/** The image by OpenSeadragon, and the mask over it on a canvas of our own. */

import { pause, reachable } from "./service.js";
import { Tiles, painted, paletteOf } from "./tiles.js";

const KEPT_TILES = matchMedia("(pointer: coarse)").matches ? 64 : 160;

/** OpenSeadragon writes a style into the page unless it finds one. Inline styles are refused, and style.css has it. */
const found = document.createElementNS("urn:fullyconv", "style");
found.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(found);

export class Viewer {
  /** `moved` is called when what is under the pointer may have changed, `missing` when a picture has no tiles. */
  constructor(stage, element, canvas, moved, missing) {
    this.stage = stage;
    this.canvas = canvas;
    this.moved = moved;
    this.missing = missing;
    this.picture = null;
    this.id = null;
    this.hidden = new Set();
    this.palette = null;
    this.opacity = 0.5;
    this.swipe = null;
    this.drawing = false;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.osd = OpenSeadragon({
      element,
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: false,
      tabIndex: -1, // the stage around it has the focus and the keys
      animationTime: still ? 0 : 0.35,
      springStiffness: 10,
      immediateRender: true,
      blendTime: 0,
      maxZoomPixelRatio: 64,
      minZoomImageRatio: 0.8,
      visibilityRatio: 0.3,
      zoomPerScroll: 1.25,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { pinchRotate: false },
      crossOriginPolicy: false,
    });
    this.osd.innerTracker.keyHandler = null;
    this.osd.innerTracker.keyDownHandler = null;
    for (const name of ["update-viewport", "animation", "open", "resize", "tile-drawn"]) {
      this.osd.addHandler(name, () => this.redraw());
    }
    this.osd.addHandler("tile-load-failed", () => this.#tryAgain());
    this.osd.addHandler("zoom", () => this.#smoothen());
    this.osd.addHandler("open", () => {
      // The stage may have been hidden, and without a size, when the viewer was made.
      this.osd.viewport.resize(new OpenSeadragon.Point(stage.clientWidth, stage.clientHeight), false);
      this.osd.viewport.goHome(true);
      this.#smoothen();
    });
    new ResizeObserver(() => this.redraw()).observe(stage);
  }

  /** Look at a picture that the service knows, or at nothing. */
  show(picture) {
    const info = picture?.info ?? null;
    this.picture = picture;
    if (info?.id === this.id) {
      this.redraw();
      return;
    }
    this.id = info?.id ?? null;
    this.mask?.close();
    this.confidence?.close();
    this.mask = this.confidence = null;
    if (!info) {
      this.osd.close();
      this.redraw();
      return;
    }
    this.mask = new Tiles(picture, "mask", KEPT_TILES, () => this.redraw(), () => this.missing(picture));
    this.confidence = new Tiles(picture, "confidence", 24, () => this.moved(), () => this.missing(picture));
    this.osd.open(sourceOf(info));
  }

  /** OpenSeadragon does not ask twice for a tile: open the image anew, when the service answers, at the same place. */
  async #tryAgain() {
    const { id, picture } = this;
    if (!picture || this.again === id) return;
    this.again = id;
    this.missing(picture);
    await pause(1000);
    await reachable();
    this.again = null;
    if (this.id !== id) return;
    const bounds = this.osd.viewport.getBounds();
    this.osd.addOnceHandler("open", () => this.osd.viewport.fitBounds(bounds, true));
    this.osd.open(sourceOf(picture.info));
  }

  /** Which classes are not shown. */
  hide(classes, hidden) {
    this.hidden = hidden;
    this.palette = paletteOf(classes, hidden);
    this.redraw();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.canvas.style.opacity = opacity;
  }

  /** Where the mask begins, 0 to 1 from the left; null: it is everywhere. */
  setSwipe(share) {
    this.swipe = share;
    this.canvas.style.clipPath = share === null ? "none" : `inset(0 0 0 ${100 * share}%)`;
  }

  redraw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.#draw();
      this.moved();
    });
  }

  /** {x, y} of the pixel at a place of the window, null outside of the image. */
  pixelAt(clientX, clientY) {
    if (!this.id || !this.osd.world.getItemCount()) return null;
    const { left, top } = this.stage.getBoundingClientRect();
    const point = new OpenSeadragon.Point(clientX - left, clientY - top);
    const at = this.osd.viewport.viewerElementToImageCoordinates(point);
    const [x, y] = [Math.floor(at.x), Math.floor(at.y)];
    const { width, height } = this.picture.info;
    return x >= 0 && y >= 0 && x < width && y < height ? { x, y } : null;
  }

  /** {index, confidence} at a pixel, as far as they are known. */
  read({ x, y }) {
    const level = this.#level(this.#frame().scale);
    const index = this.mask.at(x, y, level);
    if (index === undefined || index === 255) return { index: null, confidence: null };
    const confidence = this.confidence.at(x, y, level);
    return { index, confidence: confidence === undefined ? null : confidence / 255 };
  }

  zoomBy(factor) {
    this.osd.viewport?.zoomBy(factor).applyConstraints();
  }

  fit() {
    this.osd.viewport?.goHome();
  }

  oneToOne() {
    const viewport = this.osd.viewport;
    viewport?.zoomTo(viewport.imageToViewportZoom(1 / devicePixelRatio)).applyConstraints();
  }

  panBy(columns, rows) {
    const viewport = this.osd.viewport;
    viewport?.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(columns, rows))).applyConstraints();
  }

  /** Left upper corner of the image and pixels of the screen a pixel of the image, on the canvas. */
  #frame() {
    const ratio = devicePixelRatio;
    const viewport = this.osd.viewport;
    const { width } = this.picture.info;
    const start = viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const end = viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(width, 0));
    return { left: start.x * ratio, top: start.y * ratio, scale: ((end.x - start.x) * ratio) / width };
  }

  /** The level whose pixels are about those of the screen. */
  #level(scale) {
    return Math.min(Math.max(Math.round(Math.log2(1 / scale)), 0), this.picture.info.levels - 1);
  }

  #smoothen() {
    const zoom = this.osd.viewport.viewportToImageZoom(this.osd.viewport.getZoom(false));
    this.osd.drawer?.setImageSmoothingEnabled(zoom * devicePixelRatio < 2);
  }

  #draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio;
    const [width, height] = [this.stage.clientWidth, this.stage.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!this.mask || !this.picture?.info || !this.palette || !this.osd.world.getItemCount()) return;
    const frame = this.#frame();
    const level = this.#level(frame.scale);
    const step = this.picture.info.tile * 2 ** level;
    const { width: imageWidth, height: imageHeight } = this.picture.info;
    const last = (side, start, length) =>
      Math.min(Math.ceil(side / step), Math.ceil((length - start) / frame.scale / step)) - 1;
    const first = (start) => Math.max(Math.floor(-start / frame.scale / step), 0);
    context.imageSmoothingEnabled = false;
    for (let row = first(frame.top); row <= last(imageHeight, frame.top, height); row++) {
      for (let column = first(frame.left); column <= last(imageWidth, frame.left, width); column++) {
        this.#drawTile(context, frame, level, column, row);
      }
    }
  }

  #drawTile(context, { left, top, scale }, level, column, row) {
    const found = this.mask.best(level, column, row);
    if (!found) return;
    const { tile } = found;
    const side = this.picture.info.tile;
    const factor = 2 ** (found.level - level);
    // The part of the found tile, in its pixels, that this tile shows.
    const [u, v] = [(column * side) / factor - found.column * side, (row * side) / factor - found.row * side];
    const [w, h] = [Math.min(side / factor, tile.width - u), Math.min(side / factor, tile.height - v)];
    if (w <= 0 || h <= 0) return;
    const pixel = scale * 2 ** level;
    const [x0, y0] = [Math.round(left + column * side * pixel), Math.round(top + row * side * pixel)];
    const x1 = Math.round(left + (column * side + w * factor) * pixel);
    const y1 = Math.round(top + (row * side + h * factor) * pixel);
    context.drawImage(painted(tile, this.palette), u, v, w, h, x0, y0, x1 - x0, y1 - y0);
  }
}

function sourceOf({ id, width, height, tile, levels }) {
  const maxLevel = Math.ceil(Math.log2(Math.max(width, height, 2)));
  return {
    width,
    height,
    tileSize: tile,
    tileOverlap: 0,
    maxLevel,
    minLevel: Math.max(maxLevel - levels + 1, 0),
    getTileUrl: (level, column, row) => `/images/${id}/image/${maxLevel - level}/${column}_${row}`,
  };
}

/** Grey PNG, 8 bits, decoded exactly: a canvas may change what it gives back, and class indices must not change. */

export async function decodeGrey(buffer) {
  const view = new DataView(buffer);
  const parts = [];
  let width = 0;
  let height = 0;
  for (let at = 8; at < buffer.byteLength; ) {
    const length = view.getUint32(at);
    const kind = view.getUint32(at + 4);
    if (kind === 0x49484452) {
      width = view.getUint32(at + 8);
      height = view.getUint32(at + 12);
      if (view.getUint16(at + 16) !== 0x0800) throw new Error("expected a grey PNG of 8 bits");
    } else if (kind === 0x49444154) {
      parts.push(new Uint8Array(buffer, at + 8, length));
    }
    at += length + 12;
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const lines = new Uint8Array(await new Response(stream).arrayBuffer());
  return { width, height, values: unfiltered(lines, width, height) };
}

function unfiltered(lines, width, height) {
  const values = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const from = row * (width + 1);
    const to = row * width;
    const filter = lines[from];
    for (let column = 0; column < width; column++) {
      const left = column ? values[to + column - 1] : 0;
      const up = row ? values[to + column - width] : 0;
      const corner = column && row ? values[to + column - width - 1] : 0;
      let guess = 0;
      if (filter === 1) guess = left;
      else if (filter === 2) guess = up;
      else if (filter === 3) guess = (left + up) >> 1;
      else if (filter === 4) guess = paeth(left, up, corner);
      values[to + column] = lines[from + 1 + column] + guess;
    }
  }
  return values;
}

function paeth(left, up, corner) {
  const sum = left + up - corner;
  const [a, b, c] = [Math.abs(sum - left), Math.abs(sum - up), Math.abs(sum - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

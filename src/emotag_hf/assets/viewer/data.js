// What the page holds: base64 and deflate in, named Float32Array and Uint32Array out (export/viewer_data.py wrote them).

function bytesOf(id) {
  const text = atob(document.getElementById(id).textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Numbers lie as planes: all low bytes, then the next ones.
function interleave(raw, offset, count, width) {
  const bytes = new Uint8Array(count * width);
  for (let plane = 0; plane < width; plane++) {
    const start = offset + plane * count;
    for (let i = 0; i < count; i++) bytes[i * width + plane] = raw[start + i];
  }
  return bytes.buffer;
}

function arrayOf(about, raw) {
  const count = about.shape.reduce((a, b) => a * b, 1);
  if (about.kind === "f32") return new Float32Array(interleave(raw, about.offset, count, 4));
  if (about.kind === "u32") return new Uint32Array(interleave(raw, about.offset, count, 4));
  const levels = new Uint16Array(interleave(raw, about.offset, count, 2));
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) values[i] = about.low + about.step * levels[i];
  return values;
}

async function readArrays(headers) {
  const raw = await inflate(bytesOf("data"));
  return Object.fromEntries(headers.map((about) => [about.name, arrayOf(about, raw)]));
}

// The page: play, scrub, turn, zoom. `window.emotag` is for other scripts and for tests.

const facts = JSON.parse(document.getElementById("facts").textContent);
const element = (id) => document.getElementById(id);
const [canvas, sound, play, seek, backdrop] = ["view", "sound", "play", "seek", "backdrop"].map(element);
const view = { yaw: 0, pitch: 0, zoom: 1 };
const state = { frame: 0, posed: -1, fixed: null, changed: true };
canvas.style.aspectRatio = `${facts.width} / ${facts.height}`;

// The camera of the export at another size, turned about the head by yaw and pitch as `Camera.orbit` does.
function cameraAt(width, height) {
  const V = facts.viewmat, K = facts.K, p = facts.pivot;
  const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
  const turn = [[cy, 0, -sy], [-sp * sy, cp, -sp * cy], [cp * sy, sp, cp * cy]]; // about x after about y
  const rotation = [], translation = [];
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) rotation.push(V[i][0] * turn[0][j] + V[i][1] * turn[1][j] + V[i][2] * turn[2][j]);
    const before = V[i][0] * p[0] + V[i][1] * p[1] + V[i][2] * p[2];
    const after = rotation[3 * i] * p[0] + rotation[3 * i + 1] * p[1] + rotation[3 * i + 2] * p[2];
    translation.push(V[i][3] + before - after);
  }
  const scale = width / facts.width, zoom = view.zoom;
  const focal = [K[0][0] * scale * zoom, K[1][1] * scale * zoom];
  const centre = [width / 2 + (K[0][2] * scale - width / 2) * zoom, height / 2 + (K[1][2] * scale - height / 2) * zoom];
  return { rotation, translation, focal, centre };
}

function plainColor() {
  if (backdrop.value === "own") return [0, 0, 0, 0];
  return [1, 3, 5].map((at) => parseInt(backdrop.value.slice(at, at + 2), 16) / 255).concat(1);
}

function draw(head, renderer) {
  const width = state.fixed || Math.max(2, Math.round(canvas.clientWidth * Math.min(window.devicePixelRatio, 2)));
  const height = Math.round((width * facts.height) / facts.width);
  renderer.resize(width, height);
  if (state.posed !== state.frame) head.setFrame((state.posed = state.frame));
  renderer.draw(cameraAt(width, height), plainColor());
  seek.value = state.frame;
  element("time").textContent = `${(state.frame / facts.fps).toFixed(1)} / ${(facts.frames / facts.fps).toFixed(1)} s`;
  state.changed = false;
}

function toFrame(frame) {
  const wanted = Math.min(Math.max(Math.round(frame), 0), facts.frames - 1);
  if (wanted !== state.frame) Object.assign(state, { frame: wanted, changed: true });
}

function listen() {
  const pointers = new Map();
  let spread = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    spread = 0;
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => pointers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    pointers.set(event.pointerId, event);
    if (pointers.size > 1) { // two fingers zoom
      const [a, b] = [...pointers.values()], now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      if (spread) zoomBy(now / spread);
      spread = now;
      return;
    }
    // the head follows the mouse
    turnBy((-(event.clientX - last.clientX) * 3) / canvas.clientWidth, ((event.clientY - last.clientY) * 3) / canvas.clientWidth);
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoomBy(Math.exp(-event.deltaY / 800)); }, { passive: false });
  canvas.addEventListener("dblclick", front);
  window.addEventListener("resize", () => { state.changed = true; });
  window.addEventListener("keydown", (event) => {
    if (event.target !== canvas && event.target !== document.body) return;
    const turns = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    if (event.key === " ") toggle();
    else if (turns[event.key]) turnBy(...turns[event.key]);
    else return;
    event.preventDefault();
  });
  play.addEventListener("click", toggle);
  element("front").addEventListener("click", front);
  backdrop.addEventListener("change", () => { state.changed = true; });
  seek.addEventListener("input", () => {
    toFrame(Number(seek.value));
    sound.currentTime = Math.min(state.frame / facts.fps, sound.duration || Infinity);
  });
  sound.addEventListener("ended", () => toFrame(facts.frames - 1)); // a slow machine may have been frames behind
  for (const name of ["play", "pause", "ended"]) {
    sound.addEventListener(name, () => {
      play.textContent = sound.paused ? "Play" : "Pause";
    });
  }
}

function turnBy(yaw, pitch) {
  view.yaw += yaw;
  view.pitch = Math.min(Math.max(view.pitch + pitch, -1.4), 1.4);
  state.changed = true;
}

function zoomBy(factor) {
  view.zoom = Math.min(Math.max(view.zoom * factor, 0.3), 12);
  state.changed = true;
}

function front() {
  Object.assign(view, { yaw: 0, pitch: 0, zoom: 1 });
  state.changed = true;
}

function toggle() {
  if (sound.paused) sound.play().catch((error) => { element("message").textContent = `The sound cannot be played: ${error.message}`; });
  else sound.pause();
}

async function open() {
  if (!window.DecompressionStream) throw new Error("This page needs a browser of 2023 or later.");
  await element("picture").decode();
  const head = new Head(await readArrays(facts.arrays), facts);
  const renderer = new SplatRenderer(canvas, head, element("picture"));
  seek.max = facts.frames - 1;
  for (const control of [play, seek, element("front")]) control.disabled = false;
  listen();
  draw(head, renderer);
  element("message").textContent = "";
  const loop = () => {
    if (!sound.paused) toFrame(Math.floor(sound.currentTime * facts.fps + 1e-3));
    if (state.changed) draw(head, renderer);
    requestAnimationFrame(loop);
  };
  requestAnimationFrame(loop);
  window.emotag = {
    facts, view,
    // Draws a frame at once, `size` pixels wide (null: as wide as the page), seen from yaw, pitch (rad) and zoom.
    show(frame, size = null, seen = {}) {
      sound.pause();
      toFrame(frame);
      Object.assign(view, { yaw: 0, pitch: 0, zoom: 1 }, seen);
      state.fixed = size;
      canvas.classList.toggle("fixed", Boolean(size)); // in the corner, a pixel of its own for each of the picture
      canvas.style.width = size ? `${size / window.devicePixelRatio}px` : "";
      draw(head, renderer);
    },
    get frame() { return state.frame; },
    play: () => sound.play(),
    pause: () => sound.pause(),
  };
}

open().catch((error) => {
  console.error(error);
  element("message").textContent = error.message;
});

// Gaussians to pixels in WebGL 2, with the conventions of `rasterize`: EWA footprints with 0.3 px² added, pixel centres at
// 0.5, alpha at most 0.999, nothing below 1/255. Farthest first, premultiplied; the background comes last, below all.

const PER_ROW = 512; // Gaussians in a row of the texture: 2,048 texels, what every WebGL 2 device has
const NEAR = 0.01; // metres

const SPLAT_VERTEX = `#version 300 es
precision highp float; precision highp sampler2D;
uniform sampler2D splats; uniform mat3 rotation; uniform vec3 translation; uniform vec2 focal, centre, size;
flat out vec4 conic; flat out vec3 color; out vec2 offset;
void main() {
  int which = gl_VertexID / 4; // the splats lie in the texture in the order of drawing, four corners each
  ivec2 at = ivec2(which % ${PER_ROW} * 4, which / ${PER_ROW});
  vec4 a = texelFetch(splats, at, 0), b = texelFetch(splats, at + ivec2(1, 0), 0);
  vec4 c = texelFetch(splats, at + ivec2(2, 0), 0), d = texelFetch(splats, at + ivec2(3, 0), 0);
  vec3 p = rotation * a.xyz + translation;
  float opacity = a.w;
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0); conic = vec4(0.0); color = d.rgb; offset = vec2(0.0);
  if (p.z < ${NEAR} || opacity < 1.0 / 255.0) return;
  mat3 world = mat3(b.x, b.y, b.z, b.y, b.w, c.x, b.z, c.x, c.y);
  vec2 margin = 0.15 * size / focal;
  vec2 uv = clamp(p.xy / p.z, -centre / focal - margin, (size - centre) / focal + margin);
  vec3 row0 = vec3(focal.x / p.z, 0.0, -focal.x * uv.x / p.z) * rotation;
  vec3 row1 = vec3(0.0, focal.y / p.z, -focal.y * uv.y / p.z) * rotation;
  vec3 half0 = world * row0;
  float xx = dot(row0, half0) + 0.3, xy = dot(row1, half0), yy = dot(row1, world * row1) + 0.3;
  float det = xx * yy - xy * xy;
  if (det <= 0.0) return;
  conic = vec4(yy, -xy, xx, 0.0) / det;
  conic.w = opacity;
  float reach = min(sqrt(2.0 * log(opacity * 255.0)), 3.33);
  // A rectangle along the footprint's own axes: a hair that lies aslant would fill a large upright one with nothing.
  float middle = 0.5 * (xx + yy), apart = length(vec2(0.5 * (xx - yy), xy));
  vec2 along = vec2(0.5 * (xx - yy) + apart, xy);
  if (dot(along, along) < 1e-12) along = xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0);
  along = normalize(along);
  vec2 corner = (vec2(gl_VertexID & 1, gl_VertexID >> 1 & 1) * 2.0 - 1.0) * reach;
  vec2 radii = sqrt(vec2(middle + apart, max(middle - apart, 0.3)));
  offset = corner.x * radii.x * along + corner.y * radii.y * vec2(-along.y, along.x);
  vec2 pixel = focal * p.xy / p.z + centre + offset;
  gl_Position = vec4(pixel / size * vec2(2.0, -2.0) + vec2(-1.0, 1.0), 0.0, 1.0);
}`;

const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
flat in vec4 conic; flat in vec3 color; in vec2 offset;
out vec4 pixel;
void main() {
  float sigma = 0.5 * (conic.x * offset.x * offset.x + conic.z * offset.y * offset.y) + conic.y * offset.x * offset.y;
  float alpha = min(0.999, conic.w * exp(-sigma));
  if (alpha < 1.0 / 255.0) discard;
  pixel = vec4(color * alpha, alpha);
}`;

const COVER_VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

const COVER_FRAGMENT = `#version 300 es
precision highp float; precision highp sampler2D;
uniform sampler2D drawn, picture; uniform vec4 plain; uniform vec2 size;
out vec4 pixel;
void main() {
  vec4 head = texelFetch(drawn, ivec2(gl_FragCoord.xy), 0);
  vec3 behind = mix(texture(picture, gl_FragCoord.xy / size).rgb, plain.rgb, plain.a);
  pixel = vec4(head.rgb + (1.0 - head.a) * behind, 1.0);
}`;

function program(gl, vertex, fragment) {
  const linked = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(linked, shader);
  }
  gl.linkProgram(linked);
  if (!gl.getProgramParameter(linked, gl.LINK_STATUS)) throw new Error(`WebGL: ${gl.getProgramInfoLog(linked)}`);
  const at = (name) => gl.getUniformLocation(linked, name);
  return { linked, at };
}

function texture(gl, filter) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
  return made;
}

class SplatRenderer {
  constructor(canvas, head, picture) {
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("This page needs WebGL 2, which this browser does not offer.");
    Object.assign(this, { gl, canvas, head });
    // Eight bits lose what many faint layers add up to.
    this.format = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float")
      ? gl.RGBA16F : gl.RGBA8;
    this.splat = program(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.cover = program(gl, COVER_VERTEX, COVER_FRAGMENT);
    this.rows = Math.ceil(head.count / PER_ROW);
    this.texels = new Float32Array(this.rows * PER_ROW * 16);
    this.splatTexture = texture(gl, gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32F, PER_ROW * 4, this.rows);
    this.pictureTexture = texture(gl, gl.LINEAR);
    gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, true);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
    gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, false);
    this.order = new Uint32Array(head.count);
    this.keys = new Uint16Array(head.count);
    this.depths = new Float32Array(head.count);
    this.rgb = new Float32Array(head.count * 3);
    // Two triangles a splat by an index buffer: one instance a splat is slow on processors without a GPU.
    const corners = new Uint32Array(head.count * 6);
    for (let g = 0; g < head.count; g++) corners.set([0, 1, 2, 2, 1, 3].map((corner) => 4 * g + corner), 6 * g);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    this.target = gl.createFramebuffer();
  }

  resize(width, height) {
    const { gl, canvas } = this;
    if (canvas.width === width && canvas.height === height && this.drawn) return;
    canvas.width = width;
    canvas.height = height;
    if (this.drawn) gl.deleteTexture(this.drawn);
    this.drawn = texture(gl, gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, this.format, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.drawn, 0);
  }

  // Farthest first, by counting 65,536 depths.
  sort(rotation, translation) {
    const { head, depths, keys, order } = this, m = head.means, count = head.count;
    let near = Infinity, far = -Infinity;
    for (let g = 0; g < count; g++) {
      const z = rotation[6] * m[3 * g] + rotation[7] * m[3 * g + 1] + rotation[8] * m[3 * g + 2] + translation[2];
      depths[g] = z;
      if (z < near) near = z;
      if (z > far) far = z;
    }
    const scale = 65535 / Math.max(far - near, 1e-9), starts = new Uint32Array(65537);
    for (let g = 0; g < count; g++) {
      keys[g] = (far - depths[g]) * scale;
      starts[keys[g] + 1]++;
    }
    for (let i = 0; i < 65536; i++) starts[i + 1] += starts[i];
    for (let g = 0; g < count; g++) order[starts[keys[g]]++] = g;
  }

  // camera: rotation (9, by rows), translation (3), focal (2), centre (2); plain: r g b and 1, or a 0 for the picture
  draw(camera, plain) {
    const { gl, head, texels, canvas } = this, { rotation: r, translation: t } = camera;
    this.sort(r, t);
    const { means, covariances } = head, opacities = head.arrays.opacities;
    head.colorsFrom([0, 1, 2].map((k) => -(r[k] * t[0] + r[3 + k] * t[1] + r[6 + k] * t[2])), this.rgb);
    for (let i = 0; i < head.count; i++) {
      const g = this.order[i], o = 16 * i;
      texels[o] = means[3 * g]; texels[o + 1] = means[3 * g + 1]; texels[o + 2] = means[3 * g + 2];
      texels[o + 3] = opacities[g];
      for (let k = 0; k < 6; k++) texels[o + 4 + k] = covariances[6 * g + k];
      for (let k = 0; k < 3; k++) texels[o + 12 + k] = this.rgb[3 * g + k];
    }

    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.splatTexture);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, PER_ROW * 4, this.rows, gl.RGBA, gl.FLOAT, texels);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(this.splat.linked);
    gl.uniform1i(this.splat.at("splats"), 0);
    gl.uniformMatrix3fv(this.splat.at("rotation"), true, r);
    gl.uniform3fv(this.splat.at("translation"), t);
    gl.uniform2fv(this.splat.at("focal"), camera.focal);
    gl.uniform2fv(this.splat.at("centre"), camera.centre);
    gl.uniform2f(this.splat.at("size"), canvas.width, canvas.height);
    gl.drawElements(gl.TRIANGLES, 6 * head.count, gl.UNSIGNED_INT, 0);

    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    gl.useProgram(this.cover.linked);
    gl.bindTexture(gl.TEXTURE_2D, this.drawn);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.pictureTexture);
    gl.uniform1i(this.cover.at("drawn"), 0);
    gl.uniform1i(this.cover.at("picture"), 1);
    gl.uniform4fv(this.cover.at("plain"), plain);
    gl.uniform2f(this.cover.at("size"), canvas.width, canvas.height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

// The Gaussians of one frame in the world: what `RiggedGaussians.pose` does, from the mesh's components (METHOD 2).

const SH_C0 = 0.28209479177387814;

// out[i] = start[i] + sum over k of codes[frame, k] * basis[k, i]
function combine(start, codes, basis, frame, out) {
  const size = out.length, count = size ? basis.length / size : 0;
  if (start) out.set(start); else out.fill(0);
  for (let k = 0; k < count; k++) {
    const code = codes[frame * count + k], row = k * size;
    if (code === 0) continue;
    for (let i = 0; i < size; i++) out[i] += code * basis[row + i];
  }
}

// The six numbers xx xy xz yy yz zz of R(q) diag(s)² R(q)^T.
function covarianceOf(w, x, y, z, sx, sy, sz, out, at) {
  const n = 1 / Math.hypot(w, x, y, z);
  w *= n; x *= n; y *= n; z *= n;
  const a = (1 - 2 * (y * y + z * z)) * sx, b = 2 * (x * y - w * z) * sy, c = 2 * (x * z + w * y) * sz;
  const d = 2 * (x * y + w * z) * sx, e = (1 - 2 * (x * x + z * z)) * sy, f = 2 * (y * z - w * x) * sz;
  const g = 2 * (x * z - w * y) * sx, h = 2 * (y * z + w * x) * sy, i = (1 - 2 * (x * x + y * y)) * sz;
  out[at] = a * a + b * b + c * c;
  out[at + 1] = a * d + b * e + c * f;
  out[at + 2] = a * g + b * h + c * i;
  out[at + 3] = d * d + e * e + f * f;
  out[at + 4] = d * g + e * h + f * i;
  out[at + 5] = g * g + h * h + i * i;
}

class Head {
  constructor(arrays, facts) {
    this.arrays = arrays;
    this.count = facts.gaussians;
    this.coefficients = (facts.sh_degree + 1) ** 2;
    this.vertices = new Float32Array(arrays.vertex_mean.length);
    this.frames = new Float32Array((arrays.corners.length / 3) * 13); // rotation by rows (9), centroid (3), size
    this.localMeans = new Float32Array(arrays.means);
    this.localCovariances = new Float32Array(this.count * 6);
    this.colors = new Float32Array(arrays.colors); // harmonics, [N, K, 3]
    this.means = new Float32Array(this.count * 3);
    this.covariances = new Float32Array(this.count * 6);
    this.scales = arrays.log_scales.map(Math.exp);
    if (arrays.mouth_basis) {
      const codes = arrays.mouth_codes.length / facts.frames;
      this.mouthOffsets = new Float32Array(arrays.mouth_basis.length / codes); // [Nm, 9]
    }
    if (arrays.corrective_colors) this.colorChange = new Float32Array(this.count * 3);
    const q = arrays.quats, s = this.scales;
    for (let g = 0; g < this.count; g++) {
      covarianceOf(q[4 * g], q[4 * g + 1], q[4 * g + 2], q[4 * g + 3], s[3 * g], s[3 * g + 1], s[3 * g + 2],
        this.localCovariances, 6 * g);
    }
  }

  setFrame(frame) {
    const arrays = this.arrays;
    combine(arrays.vertex_mean, arrays.vertex_codes, arrays.vertex_basis, frame, this.vertices);
    this.placeTriangles();
    if (this.colorChange) {
      combine(arrays.means, arrays.corrective_codes, arrays.corrective_means, frame, this.localMeans);
      combine(null, arrays.corrective_codes, arrays.corrective_colors, frame, this.colorChange);
      const width = 3 * this.coefficients;
      for (let g = 0; g < this.count; g++) {
        for (let c = 0; c < 3; c++) this.colors[g * width + c] = arrays.colors[g * width + c] + this.colorChange[3 * g + c];
      }
    } else if (this.mouthOffsets) this.localMeans.set(arrays.means);
    if (this.mouthOffsets) {
      combine(null, arrays.mouth_codes, arrays.mouth_basis, frame, this.mouthOffsets);
      this.moveMouth();
    }
    this.bind();
  }

  placeTriangles() {
    const v = this.vertices, corners = this.arrays.corners, out = this.frames;
    for (let f = 0; f < corners.length / 3; f++) {
      const a = 3 * corners[3 * f], b = 3 * corners[3 * f + 1], c = 3 * corners[3 * f + 2], o = 13 * f;
      const ex = v[b] - v[a], ey = v[b + 1] - v[a + 1], ez = v[b + 2] - v[a + 2];
      const sx = v[c] - v[a], sy = v[c + 1] - v[a + 1], sz = v[c + 2] - v[a + 2];
      const length = Math.hypot(ex, ey, ez), unit = 1 / Math.max(length, 1e-12);
      const xx = ex * unit, xy = ey * unit, xz = ez * unit;
      let nx = ey * sz - ez * sy, ny = ez * sx - ex * sz, nz = ex * sy - ey * sx;
      const flat = 1 / Math.max(Math.hypot(nx, ny, nz), 1e-12);
      nx *= flat; ny *= flat; nz *= flat;
      const zx = xy * nz - xz * ny, zy = xz * nx - xx * nz, zz = xx * ny - xy * nx;
      out[o] = xx; out[o + 1] = nx; out[o + 2] = zx;
      out[o + 3] = xy; out[o + 4] = ny; out[o + 5] = zy;
      out[o + 6] = xz; out[o + 7] = nz; out[o + 8] = zz;
      for (let k = 0; k < 3; k++) out[o + 9 + k] = (v[a + k] + v[b + k] + v[c + k]) / 3;
      out[o + 12] = 0.5 * (length + Math.abs(sx * zx + sy * zy + sz * zz));
    }
  }

  // The inner mouth's Gaussians, the last ones, in their triangles: mean, rotation as axis-angle, log-scale.
  moveMouth() {
    const offsets = this.mouthOffsets, q = this.arrays.quats, s = this.scales;
    const count = offsets.length / 9, first = this.count - count;
    for (let m = 0; m < count; m++) {
      const g = first + m, o = 9 * m;
      for (let k = 0; k < 3; k++) this.localMeans[3 * g + k] += offsets[o + k];
      const hx = offsets[o + 3] / 2, hy = offsets[o + 4] / 2, hz = offsets[o + 5] / 2;
      const angle = Math.sqrt(hx * hx + hy * hy + hz * hz + 1e-20), sine = Math.sin(angle) / angle;
      const aw = Math.cos(angle), ax = hx * sine, ay = hy * sine, az = hz * sine;
      const bw = q[4 * g], bx = q[4 * g + 1], by = q[4 * g + 2], bz = q[4 * g + 3];
      covarianceOf(
        aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw,
        s[3 * g] * Math.exp(offsets[o + 6]), s[3 * g + 1] * Math.exp(offsets[o + 7]), s[3 * g + 2] * Math.exp(offsets[o + 8]),
        this.localCovariances, 6 * g);
    }
  }

  // mean = size · R · local mean + centroid, covariance = size² · R · local covariance · R^T
  bind() {
    const binding = this.arrays.binding, r = this.frames, m = this.localMeans, l = this.localCovariances;
    const means = this.means, out = this.covariances;
    for (let g = 0; g < this.count; g++) {
      const o = 13 * binding[g], size = r[o + 12], i = 3 * g, j = 6 * g;
      const r0 = r[o], r1 = r[o + 1], r2 = r[o + 2], r3 = r[o + 3], r4 = r[o + 4], r5 = r[o + 5];
      const r6 = r[o + 6], r7 = r[o + 7], r8 = r[o + 8], x = m[i], y = m[i + 1], z = m[i + 2];
      means[i] = size * (r0 * x + r1 * y + r2 * z) + r[o + 9];
      means[i + 1] = size * (r3 * x + r4 * y + r5 * z) + r[o + 10];
      means[i + 2] = size * (r6 * x + r7 * y + r8 * z) + r[o + 11];
      const xx = l[j], xy = l[j + 1], xz = l[j + 2], yy = l[j + 3], yz = l[j + 4], zz = l[j + 5], k = size * size;
      const a0 = r0 * xx + r1 * xy + r2 * xz, a1 = r0 * xy + r1 * yy + r2 * yz, a2 = r0 * xz + r1 * yz + r2 * zz;
      const b0 = r3 * xx + r4 * xy + r5 * xz, b1 = r3 * xy + r4 * yy + r5 * yz, b2 = r3 * xz + r4 * yz + r5 * zz;
      const c0 = r6 * xx + r7 * xy + r8 * xz, c1 = r6 * xy + r7 * yy + r8 * yz, c2 = r6 * xz + r7 * yz + r8 * zz;
      out[j] = k * (a0 * r0 + a1 * r1 + a2 * r2);
      out[j + 1] = k * (a0 * r3 + a1 * r4 + a2 * r5);
      out[j + 2] = k * (a0 * r6 + a1 * r7 + a2 * r8);
      out[j + 3] = k * (b0 * r3 + b1 * r4 + b2 * r5);
      out[j + 4] = k * (b0 * r6 + b1 * r7 + b2 * r8);
      out[j + 5] = k * (c0 * r6 + c1 * r7 + c2 * r8);
    }
  }

  // Colours [N, 3] of all Gaussians seen from a place: harmonics + 0.5, not below zero.
  colorsFrom(eye, out) {
    const k = this.coefficients, c = this.colors;
    const basis = new Float32Array(k);
    basis[0] = SH_C0;
    for (let g = 0; g < this.count; g++) {
      if (k > 1) {
        let x = this.means[3 * g] - eye[0], y = this.means[3 * g + 1] - eye[1], z = this.means[3 * g + 2] - eye[2];
        const unit = 1 / Math.hypot(x, y, z);
        x *= unit; y *= unit; z *= unit;
        basis[1] = -0.4886025119029199 * y; basis[2] = 0.4886025119029199 * z; basis[3] = -0.4886025119029199 * x;
        if (k > 4) {
          basis[4] = 1.0925484305920792 * x * y; basis[5] = -1.0925484305920792 * y * z;
          basis[6] = 0.31539156525252005 * (3 * z * z - 1);
          basis[7] = -1.0925484305920792 * x * z; basis[8] = 0.5462742152960396 * (x * x - y * y);
        }
      }
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0.5;
        for (let i = 0; i < k; i++) sum += basis[i] * c[(g * k + i) * 3 + channel];
        out[3 * g + channel] = Math.max(sum, 0);
      }
    }
  }
}

// CLIP-ES of the tiny CLIP, as wsss_kit computes it with the preset "reference".
//
// Patches see the patches at most `window` cells away and never the class token, and the image
// embedding is the mean of the patches. So the class token is left out. N patches, D channels,
// E numbers of an embedding. Matrices are rows in one array; a weight (outs, ins) has a row an output.
"use strict";

function makeModel({ weights, tensors, words, context, heads, window: reach, mean, std, side, patch }) {
  const numbers = halves(weights);
  const parts = new Map(Object.entries(tensors));
  const of = (name) => {
    const [start, length] = parts.get(name);
    return numbers.subarray(start, start + length);
  };
  const grid = side / patch, N = grid * grid, D = of("visual.ln_post.weight").length;
  const E = of("visual.proj").length / D, scale = Math.exp(of("logit_scale")[0]);
  const ids = new Map(words.map((word, id) => [word, id]));
  const near = Array.from({ length: N }, (_, i) => {
    const [y, x] = [Math.floor(i / grid), i % grid], found = [];
    for (let v = Math.max(0, y - reach); v <= Math.min(grid - 1, y + reach); v++)
      for (let u = Math.max(0, x - reach); u <= Math.min(grid - 1, x + reach); u++) found.push(v * grid + u);
    return found;
  });

  // One transformer block; x (n, D) becomes its output. Returns what a gradient needs.
  function runBlock(x, n, name, seen, attention) {
    const w = (part) => of(`${name}.${part}`), d = D / heads;
    const first = layerNorm(x, n, w("ln_1.weight"), w("ln_1.bias"));
    const qkv = linear(first.y, n, w("attn.in_proj_weight"), w("attn.in_proj_bias"));
    const gathered = new Float32Array(n * D), probs = [];
    for (let i = 0; i < n; i++)
      for (let h = 0; h < heads; h++) {
        const q = i * 3 * D + h * d, p = new Float32Array(seen[i].length);
        for (let s = 0; s < p.length; s++) {
          const k = seen[i][s] * 3 * D + D + h * d;
          let sum = 0;
          for (let c = 0; c < d; c++) sum += qkv[q + c] * qkv[k + c];
          p[s] = sum / Math.sqrt(d);
        }
        softmax(p);
        for (let s = 0; s < p.length; s++) {
          const v = seen[i][s] * 3 * D + 2 * D + h * d;
          for (let c = 0; c < d; c++) gathered[i * D + h * d + c] += p[s] * qkv[v + c];
          if (attention) attention[i * n + seen[i][s]] += p[s];
        }
        probs.push(p);
      }
    const mixed = linear(gathered, n, w("attn.out_proj.weight"), w("attn.out_proj.bias"));
    for (let i = 0; i < x.length; i++) x[i] += mixed[i];
    const second = layerNorm(x, n, w("ln_2.weight"), w("ln_2.bias"));
    const hidden = linear(second.y, n, w("mlp.c_fc.weight"), w("mlp.c_fc.bias"));
    const slope = new Float32Array(hidden.length);
    for (let i = 0; i < hidden.length; i++) {
      const phi = 0.5 * (1 + erf(hidden[i] / Math.SQRT2));
      slope[i] = phi + (hidden[i] * Math.exp((-hidden[i] * hidden[i]) / 2)) / Math.sqrt(2 * Math.PI);
      hidden[i] *= phi;
    }
    const last = linear(hidden, n, w("mlp.c_proj.weight"), w("mlp.c_proj.bias"));
    for (let i = 0; i < x.length; i++) x[i] += last[i];
    return { first, qkv, probs, second, slope };
  }

  // Embedding of one text (E), of unit length.
  function encodeText(text) {
    const read = [words.length, ...split(text).map((word) => ids.get(word) ?? 1).slice(0, context - 2), words.length + 1];
    const n = read.length, x = new Float32Array(n * D);
    for (let t = 0; t < n; t++)
      for (let c = 0; c < D; c++)
        x[t * D + c] = of("token_embedding.weight")[read[t] * D + c] + of("positional_embedding")[t * D + c];
    const before = Array.from({ length: n }, (_, t) => Array.from({ length: t + 1 }, (_, s) => s));
    for (let b = 0; parts.has(`transformer.resblocks.${b}.ln_1.weight`); b++)
      runBlock(x, n, `transformer.resblocks.${b}`, before);
    const end = layerNorm(x.subarray((n - 1) * D), 1, of("ln_final.weight"), of("ln_final.bias")).y;
    return unit(through(end, 1, of("text_projection"), D));
  }

  const known = new Map();
  // Embedding of a phrase: the mean of its texts, each encoded once.
  function encodePhrase(texts) {
    const sum = new Float32Array(E);
    for (const text of texts) {
      if (!known.has(text)) known.set(text, encodeText(text));
      known.get(text).forEach((value, e) => (sum[e] += value));
    }
    return unit(sum);
  }

  // Run the image tower once; pixels (3, side, side) of 0 to 255.
  function open(pixels) {
    const cut = new Float32Array(N * 3 * patch * patch);
    for (let i = 0, at = 0; i < N; i++)
      for (let c = 0; c < 3; c++)
        for (let y = 0; y < patch; y++)
          for (let x = 0; x < patch; x++) {
            const row = Math.floor(i / grid) * patch + y, column = (i % grid) * patch + x;
            cut[at++] = (pixels[(c * side + row) * side + column] / 255 - mean) / std;
          }
    let x = linear(cut, N, of("visual.conv1.weight"), new Float32Array(D));
    const positions = of("visual.positional_embedding");
    for (let i = 0; i < x.length; i++) x[i] += positions[D + i]; // row 0 is the class token's
    x = layerNorm(x, N, of("visual.ln_pre.weight"), of("visual.ln_pre.bias")).y;
    const attention = new Float32Array(N * N);
    let block, b = 0, name = "";
    for (; parts.has(`visual.transformer.resblocks.${b}.ln_1.weight`); b++) {
      name = `visual.transformer.resblocks.${b}`;
      block = runBlock(x, N, name, near, attention);
    }
    for (let i = 0; i < attention.length; i++) attention[i] /= b * heads;
    const outer = layerNorm(x, N, of("visual.ln_post.weight"), of("visual.ln_post.bias"));
    const patches = through(outer.y, N, of("visual.proj"), D);
    const embedding = new Float64Array(E);
    for (let i = 0; i < patches.length; i++) embedding[i % E] += patches[i] / N;
    for (let i = 0; i < N; i++) patches.set(unit(patches.subarray(i * E, (i + 1) * E)), i * E);
    return { cells: block.first.y, block, outer, name, patches, embedding, attention, walk: balance(attention, N), weights: new Map() };
  }

  // Mean over the patches of the derivative of a number by the last block's normalised input (D);
  // direction (E) is the number's derivative by the image embedding.
  function meanGradient({ block, outer, name }, direction) {
    const w = (part) => of(`${name}.${part}`), proj = of("visual.proj"), start = new Float32Array(N * D);
    for (let c = 0; c < D; c++) {
      let sum = 0;
      for (let e = 0; e < E; e++) sum += proj[c * E + e] * direction[e];
      for (let i = 0; i < N; i++) start[i * D + c] = sum / N;
    }
    const last = backNorm(start, outer, N, of("visual.ln_post.weight"));
    const hidden = through(last, N, w("mlp.c_proj.weight"), D);
    for (let i = 0; i < hidden.length; i++) hidden[i] *= block.slope[i];
    const middle = backNorm(through(hidden, N, w("mlp.c_fc.weight"), block.slope.length / N), block.second, N, w("ln_2.weight"));
    for (let i = 0; i < middle.length; i++) middle[i] += last[i];
    const grads = through(middle, N, w("attn.out_proj.weight"), D);
    const total = new Float32Array(3 * D), d = D / heads, { qkv, probs } = block; // of q, k and v
    for (let i = 0; i < N; i++)
      for (let h = 0; h < heads; h++) {
        const p = probs[i * heads + h], g = i * D + h * d, by = new Float32Array(p.length);
        let rho = 0;
        for (let s = 0; s < p.length; s++) {
          const v = near[i][s] * 3 * D + 2 * D + h * d;
          for (let c = 0; c < d; c++) by[s] += grads[g + c] * qkv[v + c];
          rho += p[s] * by[s];
        }
        for (let s = 0; s < p.length; s++) {
          const slope = (p[s] * (by[s] - rho)) / Math.sqrt(d), k = near[i][s] * 3 * D + D + h * d;
          for (let c = 0; c < d; c++) {
            total[h * d + c] += slope * qkv[k + c];
            total[D + h * d + c] += slope * qkv[i * 3 * D + h * d + c];
          }
        }
        for (let c = 0; c < d; c++) total[2 * D + h * d + c] += grads[g + c]; // rows of p sum to 1
      }
    return through(total, 1, w("attn.in_proj_weight"), 3 * D).map((value) => value / N);
  }

  // Derivative (E) of a text's logit by the image embedding.
  function slopeOf({ embedding }, feature) {
    const length = Math.hypot(...embedding), cosine = dot(embedding, feature) / length;
    return Float64Array.from(feature, (t, e) => (scale / length) * (t - (cosine * embedding[e]) / length));
  }

  // Keep the weights (D) whose map is the gradient of a phrase's logit in this image.
  function keep(opened, texts) {
    const key = texts.join("\n");
    if (!opened.weights.has(key)) opened.weights.set(key, meanGradient(opened, slopeOf(opened, encodePhrase(texts))));
  }

  // All that CLIP-ES computes of an opened image; classes and backgrounds are lists of texts. A few
  // new phrases are kept for the next edit; many are differentiated together, once for each class.
  function maps(opened, classes, backgrounds) {
    const phrases = [...classes, ...backgrounds], features = phrases.map(encodePhrase);
    const length = Math.hypot(...opened.embedding);
    const probs = Float64Array.from(features, (f) => (scale * dot(opened.embedding, f)) / length);
    softmax(probs);
    const fresh = phrases.filter((texts) => !opened.weights.has(texts.join("\n")));
    if (fresh.length <= classes.length) fresh.forEach((texts) => keep(opened, texts));
    const weights = phrases.map((texts) => opened.weights.get(texts.join("\n")));
    const slopes = phrases.map((_, t) => (weights[t] ? null : slopeOf(opened, features[t])));
    const cams = [], refined = [];
    for (let c = 0; c < classes.length; c++) {
      const sum = new Float64Array(D), direction = new Float64Array(E);
      const others = probs.reduce((a, p, t) => (t === c ? a : a + p), 0); // 1 - p would lose digits
      phrases.forEach((_, t) => {
        const share = probs[c] * (t === c ? others : -probs[t]), from = weights[t] ?? slopes[t], to = weights[t] ? sum : direction;
        for (let k = 0; k < from.length; k++) to[k] += share * from[k];
      });
      if (slopes.some(Boolean)) meanGradient(opened, direction).forEach((value, k) => (sum[k] += value));
      const raw = Float32Array.from({ length: N }, (_, i) => Math.max(0, dot(opened.cells.subarray(i * D, (i + 1) * D), sum)));
      cams.push(scaled(scaled(raw)));
      const box = boxes(cams[c], grid, 0.4);
      refined.push(opened.walk(cams[c].map((value, i) => value * box[i])));
    }
    return { probs, cams, refined, full: refined.map((map) => enlarge(scaled(map), grid, side)) };
  }

  // The text that is most probable in each cell, as its number among classes and backgrounds.
  function claims(opened, classes, backgrounds) {
    const features = [...classes, ...backgrounds].map(encodePhrase);
    return Array.from({ length: N }, (_, i) => largest(features.map((f) => dot(opened.patches.subarray(i * E, (i + 1) * E), f))));
  }

  const unknown = (text) => split(text).filter((word) => !ids.has(word));
  return { open, maps, claims, keep, unknown, grid, side };
}

// Values (side * side) of a mask: 0 where the background is largest, else 1 + the class's number.
function maskOf(full, classes, rule) {
  return Array.from({ length: full[0]?.length ?? 0 }, (_, i) => {
    const highest = Math.max(...full.map((map) => map[i]));
    const background = rule.power ? (1 - highest) ** rule.power : rule.threshold;
    return largest([background, ...full.map((map) => map[i])]);
  }).map((k) => (k ? 1 + classes[k - 1] : 0));
}

function halves(bytes) {
  const from = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  return Float32Array.from(from, (word) => {
    const exponent = (word >> 10) & 31, rest = word & 1023, sign = word >> 15 ? -1 : 1;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + rest / 1024) : 2 ** -24 * rest);
  });
}

function split(text) {
  return text.toLowerCase().replace(/[^\p{L}\p{M}\p{N}\p{S}]|[$+<=>^`|~]/gu, " ").split(/\s+/).filter(Boolean);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function unit(values) {
  const length = Math.sqrt(dot(values, values));
  return Float32Array.from(values, (value) => value / length);
}

function largest(values) {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}

function softmax(values) {
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] = Math.exp(values[i] - top);
  for (let i = 0; i < values.length; i++) values[i] /= sum;
}

// x (n, ins) times the rows of weight (outs, ins), plus bias: (n, outs).
function linear(x, n, weight, bias) {
  const outs = bias.length, ins = weight.length / outs, y = new Float32Array(n * outs);
  for (let r = 0; r < n; r++)
    for (let o = 0; o < outs; o++) {
      let sum = bias[o];
      for (let i = 0, a = r * ins, b = o * ins; i < ins; i++) sum += x[a + i] * weight[b + i];
      y[r * outs + o] = sum;
    }
  return y;
}

// x (n, outs) times weight (outs, ins): (n, ins), the way back through `linear`.
function through(x, n, weight, outs) {
  const ins = weight.length / outs, y = new Float32Array(n * ins);
  for (let r = 0; r < n; r++)
    for (let o = 0; o < outs; o++) {
      const value = x[r * outs + o];
      for (let i = 0, a = r * ins, b = o * ins; i < ins; i++) y[a + i] += value * weight[b + i];
    }
  return y;
}

function layerNorm(x, n, weight, bias) {
  const D = weight.length, y = new Float32Array(n * D), standard = new Float32Array(n * D), factor = new Float32Array(n);
  for (let r = 0; r < n; r++) {
    let mean = 0, square = 0;
    for (let c = 0; c < D; c++) mean += x[r * D + c] / D;
    for (let c = 0; c < D; c++) square += (x[r * D + c] - mean) ** 2 / D;
    factor[r] = 1 / Math.sqrt(square + 1e-5);
    for (let c = 0; c < D; c++) {
      standard[r * D + c] = (x[r * D + c] - mean) * factor[r];
      y[r * D + c] = standard[r * D + c] * weight[c] + bias[c];
    }
  }
  return { y, standard, factor };
}

// Gradients (n, D) at a layer norm's output become those at its input.
function backNorm(grads, { standard, factor }, n, weight) {
  const D = weight.length, back = new Float32Array(n * D);
  for (let r = 0; r < n; r++) {
    let mean = 0, along = 0;
    for (let c = 0; c < D; c++) {
      const g = grads[r * D + c] * weight[c];
      mean += g / D;
      along += (g * standard[r * D + c]) / D;
    }
    for (let c = 0; c < D; c++)
      back[r * D + c] = factor[r] * (grads[r * D + c] * weight[c] - mean - along * standard[r * D + c]);
  }
  return back;
}

// Abramowitz and Stegun 7.1.26, wrong by at most 1.5e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

// A map minus its least value, over its largest.
function scaled(map) {
  const low = map.reduce((a, b) => Math.min(a, b), Infinity), high = map.reduce((a, b) => Math.max(a, b), -Infinity);
  return map.map((value) => (value - low) / (high - low + 1e-7));
}

// 1 inside the boxes around the connected regions above a share of the maximum, else 0. As in the
// released code boxes leave out the last row and column.
function boxes(cam, grid, threshold) {
  const level = Array.from(cam, (value) => Math.trunc(Math.fround(value * 255))), inside = new Float32Array(cam.length);
  const least = Math.trunc(threshold * Math.max(...level)), seen = new Set();
  for (let first = 0; first < level.length; first++) {
    if (level[first] <= least || seen.has(first)) continue;
    const region = [first];
    seen.add(first);
    for (const cell of region)
      for (let dy = -1; dy <= 1; dy++)
        for (let dx = -1; dx <= 1; dx++) {
          const y = Math.floor(cell / grid) + dy, x = (cell % grid) + dx, next = y * grid + x;
          if (y < 0 || x < 0 || y >= grid || x >= grid || level[next] <= least || seen.has(next)) continue;
          seen.add(next);
          region.push(next);
        }
    const ys = region.map((cell) => Math.floor(cell / grid)), xs = region.map((cell) => cell % grid);
    for (let y = Math.min(...ys); y < Math.min(Math.max(...ys) + 1, grid - 1); y++)
      for (let x = Math.min(...xs); x < Math.min(Math.max(...xs) + 1, grid - 1); x++) inside[y * grid + x] = 1;
  }
  return inside;
}

// The walk of CLIP-ES with an affinity (N, N): three rounds of column and row normalisation, the
// mean with the transpose, one step.
function balance(affinity, N) {
  const rowsOf = (x) => Float64Array.from({ length: N }, (_, i) => dot(affinity.subarray(i * N, (i + 1) * N), x));
  const columnsOf = (x) => {
    const sum = new Float64Array(N);
    for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) sum[j] += x[i] * affinity[i * N + j];
    return sum;
  };
  let rows = new Float64Array(N).fill(1), columns;
  for (let round = 0; round < 3; round++) {
    columns = columnsOf(rows).map((value) => 1 / value);
    rows = rowsOf(columns).map((value) => 1 / value);
  }
  return (map) => {
    const there = rowsOf(columns.map((c, i) => c * map[i])), back = columnsOf(rows.map((r, i) => r * map[i]));
    return Float32Array.from(there, (value, i) => (rows[i] * value + columns[i] * back[i]) / 2);
  };
}

// Resize a map (grid, grid) bilinearly to (side, side), without aligned corners.
function enlarge(map, grid, side) {
  const at = Array.from({ length: side }, (_, i) => {
    const place = Math.max(0, ((i + 0.5) * grid) / side - 0.5), low = Math.floor(place);
    return [low, Math.min(low + 1, grid - 1), place - low];
  });
  const large = new Float32Array(side * side);
  at.forEach(([top, bottom, v], y) =>
    at.forEach(([left, right, u], x) => {
      const above = map[top * grid + left] * (1 - u) + map[top * grid + right] * u;
      large[y * side + x] = above * (1 - v) + (map[bottom * grid + left] * (1 - u) + map[bottom * grid + right] * u) * v;
    }),
  );
  return large;
}

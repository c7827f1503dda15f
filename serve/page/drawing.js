// Waveform and spectrogram, drawn column by column as samples come.
const BINS = 96; // rows of the spectrogram, equally far apart in pitch
const WINDOW = 1024; // samples of each column's spectrum
const LOWEST_HZ = 60;

class Drawing {
  constructor(wave, spectrum, player) {
    this.player = player;
    this.wave = prepare(wave);
    this.spectrum = prepare(spectrum);
    this.wave.context.fillStyle = getComputedStyle(wave).getPropertyValue("--wave");
    this.drawn = 0; // columns
  }

  // Draw the columns whose samples, those of their spectrum too, are all here.
  update() {
    const { samples, known } = this.player;
    const columns = this.wave.width;
    const end = (x) => Math.min(((x + 1) * samples.length) / columns + WINDOW / 2, samples.length);
    while (this.drawn < columns && end(this.drawn) <= known) this.column(this.drawn++);
  }

  column(x) {
    const { samples, sampleRate } = this.player;
    const from = Math.floor((x * samples.length) / this.wave.width);
    const to = Math.max(from + 1, Math.floor(((x + 1) * samples.length) / this.wave.width));
    let peak = 0;
    for (let n = from; n < to; n++) peak = Math.max(peak, Math.abs(samples[n]));
    const { context, height } = this.wave;
    context.fillRect(x, ((1 - peak) * height) / 2, 1, Math.max(1, peak * height));

    const levels = spectrumOf(samples, Math.floor((from + to - WINDOW) / 2), sampleRate);
    const row = this.spectrum.height / BINS;
    for (let bin = 0; bin < BINS; bin++) {
      this.spectrum.context.fillStyle = colour(levels[bin]);
      this.spectrum.context.fillRect(x, this.spectrum.height - (bin + 1) * row, 1, row + 1);
    }
  }
}

function prepare(canvas) {
  const density = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * density));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * density));
  return { context: canvas.getContext("2d"), width: canvas.width, height: canvas.height };
}

// Loudness from 0 to 1 of each row, from -80 to 0 dB.
function spectrumOf(samples, start, sampleRate) {
  const real = new Float64Array(WINDOW);
  const imaginary = new Float64Array(WINDOW);
  for (let n = 0; n < WINDOW; n++) {
    const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / WINDOW);
    real[n] = (samples[start + n] || 0) * hann;
  }
  transform(real, imaginary);
  const levels = [];
  for (let bin = 0; bin < BINS; bin++) {
    const hz = LOWEST_HZ * Math.pow(sampleRate / 2 / LOWEST_HZ, bin / BINS);
    const next = LOWEST_HZ * Math.pow(sampleRate / 2 / LOWEST_HZ, (bin + 1) / BINS);
    let power = 0;
    const first = Math.max(1, Math.round((hz * WINDOW) / sampleRate));
    for (let k = first; k <= Math.max(first, Math.round((next * WINDOW) / sampleRate) - 1); k++) {
      power = Math.max(power, real[k] ** 2 + imaginary[k] ** 2);
    }
    levels.push(Math.min(1, Math.max(0, 1 + (10 * Math.log10(power / (WINDOW / 4) ** 2 + 1e-12)) / 80)));
  }
  return levels;
}

// Fourier transform in place; the length is a power of two.
function transform(real, imaginary) {
  const length = real.length;
  for (let n = 1, mirrored = 0; n < length; n++) {
    let bit = length >> 1;
    for (; mirrored & bit; bit >>= 1) mirrored ^= bit;
    mirrored ^= bit;
    if (n < mirrored) [real[n], real[mirrored]] = [real[mirrored], real[n]];
  }
  for (let size = 2; size <= length; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const angle = (-2 * Math.PI * k) / size;
      const cosine = Math.cos(angle);
      const sine = Math.sin(angle);
      for (let block = k; block < length; block += size) {
        const other = block + size / 2;
        const re = real[other] * cosine - imaginary[other] * sine;
        const im = real[other] * sine + imaginary[other] * cosine;
        real[other] = real[block] - re;
        imaginary[other] = imaginary[block] - im;
        real[block] += re;
        imaginary[block] += im;
      }
    }
  }
}

// From dark through red and orange to light.
function colour(level) {
  const red = Math.min(255, 20 + 420 * level);
  const green = Math.max(0, 380 * level - 130);
  const blue = 30 + 60 * Math.sin(Math.PI * level) + Math.max(0, 700 * (level - 0.75));
  return `rgb(${red},${Math.min(green, 245)},${Math.min(blue, 230)})`;
}

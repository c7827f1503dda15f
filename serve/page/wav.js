// A WAV file that arrives in pieces of any size: where its samples begin, and the samples as they come.
class WavReader {
  constructor() {
    this.sampleRate = 0;
    this.total = 0; // samples in all
    this.pieces = []; // every byte, for the download
    this.rest = new Uint8Array(0);
  }

  // The samples that more bytes complete, as floats.
  add(bytes) {
    this.pieces.push(bytes);
    const joined = new Uint8Array(this.rest.length + bytes.length);
    joined.set(this.rest);
    joined.set(bytes, this.rest.length);
    const start = this.total ? 0 : this.readHeader(joined);
    const count = start < 0 ? 0 : Math.floor((joined.length - start) / 2);
    this.rest = start < 0 ? joined : joined.slice(start + 2 * count);
    const samples = new Float32Array(count);
    const view = new DataView(joined.buffer);
    for (let n = 0; n < count; n++) samples[n] = view.getInt16(start + 2 * n, true) / 32768;
    return samples;
  }

  // Where the samples begin, or -1 if more of the header must come first.
  readHeader(bytes) {
    const view = new DataView(bytes.buffer);
    for (let at = 12; at + 8 <= bytes.length; ) {
      const name = String.fromCharCode(...bytes.subarray(at, at + 4));
      const size = view.getUint32(at + 4, true);
      if (name === "fmt " && at + 24 <= bytes.length) this.sampleRate = view.getUint32(at + 12, true);
      if (name === "data") {
        this.total = size / 2;
        return at + 8;
      }
      at += 8 + size + (size % 2);
    }
    return -1;
  }

  file() {
    return new Blob(this.pieces, { type: "audio/wav" });
  }
}

// Plays samples while more of them come. Each piece is scheduled right behind the one before; where the next is late,
// playing waits for it and goes on.
class Player {
  static context = null; // one for the page: browsers allow few
  static current = null; // who is heard

  constructor(sampleRate, total, onChange) {
    this.sampleRate = sampleRate;
    this.samples = new Float32Array(total);
    this.known = 0; // samples that are here
    this.position = 0; // where playing begins, or has stopped
    this.startedAt = 0; // of the context's clock, for `position`
    this.scheduled = 0; // samples handed to the context
    this.nodes = [];
    this.isPlaying = false;
    this.onChange = onChange;
  }

  add(samples) {
    this.samples.set(samples.subarray(0, this.samples.length - this.known), this.known);
    this.known += samples.length;
    if (this.isPlaying) this.schedule();
  }

  play(from = this.now()) {
    Player.current?.pause();
    Player.context ??= new AudioContext();
    Player.context.resume();
    Player.current = this;
    this.position = this.scheduled = from >= this.samples.length - 1 ? 0 : Math.floor(from);
    this.startedAt = Player.context.currentTime + 0.05;
    this.isPlaying = true;
    this.schedule();
    this.onChange();
  }

  pause() {
    if (!this.isPlaying) return;
    this.position = this.now();
    this.isPlaying = false;
    for (const node of this.nodes) {
      node.onended = null;
      node.stop();
    }
    this.nodes = [];
    if (Player.current === this) Player.current = null;
    this.onChange();
  }

  seek(sample) {
    const to = Math.max(0, Math.min(sample, this.known - 1));
    if (this.isPlaying) {
      this.pause();
      this.play(to);
    } else this.position = to;
    this.onChange();
  }

  // The sample that is heard.
  now() {
    if (!this.isPlaying) return this.position;
    const played = Math.max(0, Player.context.currentTime - this.startedAt) * this.sampleRate;
    return Math.min(this.position + played, this.known);
  }

  schedule() {
    if (this.scheduled >= this.known) return;
    const context = Player.context;
    let start = this.startedAt + (this.scheduled - this.position) / this.sampleRate;
    if (start < context.currentTime) {
      // The listener has waited for this piece.
      this.startedAt += context.currentTime + 0.05 - start;
      start = context.currentTime + 0.05;
    }
    const piece = this.samples.subarray(this.scheduled, this.known);
    const buffer = context.createBuffer(1, piece.length, this.sampleRate);
    buffer.copyToChannel(piece, 0);
    const node = context.createBufferSource();
    node.buffer = buffer;
    node.connect(context.destination);
    node.start(start);
    this.nodes.push(node);
    this.scheduled = this.known;
    node.onended = () => {
      this.nodes = this.nodes.filter((other) => other !== node);
      if (this.isPlaying && !this.nodes.length && this.known === this.samples.length) this.pause();
    };
  }
}

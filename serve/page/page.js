// The page: a form, and a card for each clip that it made.
const PRESETS = {
  "Calm piano": "calm piano in a minor key, slow",
  "Funk": "upbeat funk with a slap bass and tight drums",
  "Strings": "warm strings, a slow and solemn melody",
  "Synth pop": "bright synth pop with a driving beat",
  "Lo-fi": "lo-fi hip hop beat with a mellow electric piano",
};
const SETTINGS = ["guidance", "temperature", "top_k", "top_p", "steps"];
// What music can be asked by besides words: how a field's text is read. The model says which of them it knows.
const onOff = (text) => text === "on";
const HANDLES = {
  bpm: Number, meter: String, bars: Number, key: String, chords: String, drums: onOff, bass: onOff, density: Number,
  brightness: Number,
};
const element = (id) => document.getElementById(id);
const handle = (name) => element(name === "key" ? "key_of" : name); // `key` is the service's
const running = new Set(); // of AbortControllers

function headers(more = {}) {
  const key = element("key").value.trim();
  return key ? { Authorization: `Bearer ${key}`, ...more } : more;
}

// What a failed answer says.
async function reason(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `the service answered ${answer.status}`;
  }
}

async function describe() {
  try {
    const answer = await fetch("/v1/models", { headers: headers() });
    if (answer.status === 401) element("key").closest("details").open = true;
    if (!answer.ok) throw new Error(await reason(answer));
    const [model] = (await answer.json()).data;
    element("model").textContent = `${model.id} · ${model.sample_rate / 1000} kHz`;
    element("seconds").max = model.max_seconds;
    element("prompt").maxLength = model.max_prompt_chars;
    for (const name of SETTINGS) {
      element(name).placeholder = model.defaults[name] ?? "";
      element(name).disabled = model.defaults[name] === null; // steps, where there is no second stage
    }
    let known = 0;
    for (const name of Object.keys(HANDLES)) {
      const is = name in model.asked_by;
      handle(name).parentElement.hidden = !is;
      if (is && handle(name).tagName === "INPUT" && name !== "bars") handle(name).placeholder = model.asked_by[name];
      known += is;
    }
    element("handles").hidden = known === 0;
  } catch (error) {
    element("model").textContent = error.message;
  }
}

function fields() {
  const chosen = { prompt: element("prompt").value, seconds: Number(element("seconds").value), stream: true };
  for (const name of SETTINGS) if (element(name).value !== "") chosen[name] = Number(element(name).value);
  for (const [name, read] of Object.entries(HANDLES)) {
    if (handle(name).value !== "") chosen[name] = read(handle(name).value);
  }
  if (element("negative").value.trim()) chosen.negative = element("negative").value;
  if (element("control_guidance").value !== "") chosen.control_guidance = Number(element("control_guidance").value);
  if ("bars" in chosen) delete chosen.seconds;
  return chosen;
}

function complain(message) {
  element("problem").textContent = message;
  element("problem").hidden = !message;
}

function busy() {
  element("stop").hidden = running.size === 0;
}

// One clip: its card, and what is heard and drawn of it.
class Clip {
  constructor(prompt) {
    this.prompt = prompt;
    this.card = element("clip").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.card.querySelector(name);
    this.part("h2").textContent = prompt;
    this.say("waiting for the first sound …");
    this.part(".play").disabled = true;
    this.part(".play").onclick = () => (this.player.isPlaying ? this.player.pause() : this.player.play());
    this.part(".remove").onclick = () => this.remove();
    this.part(".extend").onclick = () => extend(this);
    const picture = this.part(".picture");
    picture.onclick = (event) => this.seek((event.clientX - picture.getBoundingClientRect().left) / picture.clientWidth);
    picture.onkeydown = (event) => this.key(event);
    element("history").prepend(this.card);
  }

  say(text) {
    this.part(".facts").textContent = text;
  }

  // Take the audio of an answer as it comes; play it at once if nothing else is heard.
  async take(path, options) {
    this.control = new AbortController();
    running.add(this.control);
    busy();
    const start = performance.now();
    try {
      const answer = await fetch(path, { method: "POST", signal: this.control.signal, ...options });
      if (!answer.ok) throw new Error(await reason(answer));
      this.seed = answer.headers.get("X-Seed");
      this.wav = new WavReader();
      const body = answer.body.getReader();
      for (let piece = await body.read(); !piece.done; piece = await body.read()) this.hear(piece.value, start);
      if (!this.player || this.player.known < this.wav.total) throw new Error("the clip broke off; try again");
      this.finish((performance.now() - start) / 1000);
    } catch (error) {
      this.fail(error.name === "AbortError" ? "stopped" : error.message);
    } finally {
      running.delete(this.control);
      busy();
    }
  }

  hear(bytes, start) {
    const samples = this.wav.add(bytes);
    if (!this.wav.total) return;
    if (!this.player) {
      this.player = new Player(this.wav.sampleRate, this.wav.total, () => this.show());
      this.drawing = new Drawing(this.part(".wave"), this.part(".spectrum"), this.player);
      this.part(".play").disabled = false;
      this.first = (performance.now() - start) / 1000;
    }
    if (!samples.length) return;
    this.player.add(samples);
    if (!this.wasStarted && !Player.current) this.player.play();
    this.wasStarted = true;
    this.drawing.update();
    this.part("progress").value = this.player.known / this.wav.total;
    this.say(`seed ${this.seed} · ${(this.player.known / this.wav.sampleRate).toFixed(1)} s made`);
  }

  finish(wall) {
    const seconds = this.wav.total / this.wav.sampleRate;
    this.say(
      `seed ${this.seed} · ${seconds.toFixed(1)} s · first sound after ${this.first.toFixed(1)} s · ` +
        `made at ${(seconds / wall).toFixed(1)} × real time`,
    );
    this.card.classList.add("done");
    this.part("progress").hidden = true;
    this.part(".extend").disabled = false;
    const link = this.part(".download");
    link.href = URL.createObjectURL(this.wav.file());
    link.download = `ssmttm-${this.seed}.wav`;
    link.hidden = false;
  }

  fail(message) {
    this.card.classList.add("failed");
    this.part("progress").hidden = true;
    this.say(message);
    if (!this.player) complain(message);
  }

  show() {
    const { player } = this;
    const share = player.now() / player.samples.length;
    this.part(".cursor").style.transform = `translateX(${share * this.part(".picture").clientWidth}px)`;
    const seconds = Math.floor(player.now() / player.sampleRate);
    this.part(".clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    this.part(".play").textContent = player.isPlaying ? "Pause" : "Play";
    const slider = this.part(".picture");
    slider.setAttribute("aria-valuemax", Math.round(player.samples.length / player.sampleRate));
    slider.setAttribute("aria-valuenow", seconds);
    if (player.isPlaying) requestAnimationFrame(() => player.isPlaying && this.show());
  }

  seek(share) {
    if (this.player) this.player.seek(share * this.player.samples.length);
  }

  key(event) {
    if (!this.player) return;
    const step = { ArrowLeft: -5, ArrowRight: 5, Home: -1e9, End: 1e9 }[event.key];
    if (step) this.player.seek(this.player.now() + step * this.player.sampleRate);
    else if (event.key === " ") this.part(".play").click();
    else return;
    event.preventDefault();
  }

  remove() {
    this.control.abort();
    this.player?.pause();
    URL.revokeObjectURL(this.part(".download").href);
    this.card.remove();
  }
}

function make() {
  if (!element("form").reportValidity()) return;
  complain("");
  Player.context ??= new AudioContext(); // while the click lasts, which is what allows it
  Player.context.resume();
  const chosen = fields();
  const seed = element("seed").value;
  for (let number = Number(element("variations").value) - 1; number >= 0; number--) {
    const body = seed === "" ? chosen : { ...chosen, seed: Number(seed) + number };
    const options = { headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body) };
    new Clip(chosen.prompt).take("/v1/music/generations", options);
  }
}

// Music that goes on from a clip, with what the form says now.
function extend(clip) {
  complain("");
  const form = new FormData();
  const prompt = element("prompt").value.trim() || clip.prompt;
  for (const [name, value] of Object.entries({ ...fields(), prompt })) form.append(name, value);
  form.append("audio", clip.wav.file(), "clip.wav");
  new Clip(`${prompt} (extended)`).take("/v1/music/extensions", { headers: headers(), body: form });
}

for (const [name, prompt] of Object.entries(PRESETS)) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.onclick = () => {
    element("prompt").value = prompt;
    element("prompt").focus();
  };
  element("presets").append(button);
}
element("form").onsubmit = (event) => {
  event.preventDefault();
  make();
};
element("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) make();
};
element("stop").onclick = () => running.forEach((control) => control.abort());
element("key").value = sessionStorage.getItem("key") ?? "";
element("key").onchange = () => {
  sessionStorage.setItem("key", element("key").value);
  describe();
};
describe();

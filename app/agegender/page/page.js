// Photographs go to POST /predict one after the other; what comes back is drawn over them and listed beside them.
// All state is in this module and dies with the page. Paths are relative, so that a proxy may add a prefix.

const $ = (selector, root = document) => root.querySelector(selector);

const DETECTORS = { yunet: "YuNet", haar: "Haar" };
const SIDE_BY_SIDE = ""; // the value of that choice among the models' ids

let service = null; // what GET /models answered
let apiKey = "";
let photographs = []; // the newest first
let asking = null; // { photograph, model, abort } while a request is under way

// --- Asking the service -------------------------------------------------------------------------------------

/** What went wrong, in words for whoever looks at the page. */
class Trouble {
  constructor(title, detail, status) {
    Object.assign(this, { title, detail, status });
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(apiKey && { "X-API-Key": apiKey }) };
  let response, text;
  try {
    response = await fetch(path, { ...options, headers });
    text = await response.text();
  } catch {
    throw new Trouble(
      "No answer",
      "The service could not be reached. Check that it is running and that you are connected, then try again.",
    );
  }
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    // Treated like JSON that is not what the service sends.
  }
  if (response.ok && body) return body;
  if (body?.title && body.detail) throw new Trouble(body.title, body.detail, response.status);
  throw new Trouble(
    "Not the service’s answer",
    `Something between this page and the service answered in its place, with status ${response.status}. ` +
      "Try again in a moment; if that does not help, tell whoever runs the service.",
  );
}

async function predict(photograph, query, signal) {
  let bytes;
  try {
    bytes = await photograph.file.arrayBuffer();
  } catch {
    throw new Trouble(
      "File unreadable",
      "The browser cannot read this file: it is a folder, or it was moved or changed. Choose it again.",
    );
  }
  // What the bytes are, the service decides by their content; so their declared type says nothing.
  const headers = { "Content-Type": "application/octet-stream" };
  return call(`predict?${query}`, { method: "POST", body: bytes, headers, signal });
}

async function connect() {
  $("#notice").hidden = true;
  try {
    service = await call("models");
  } catch (trouble) {
    if (trouble.status === 401) askForKey(trouble);
    else showNotice(trouble, connect);
    return;
  }
  showModels();
  showPhotographs();
  work();
}

// --- What is chosen -----------------------------------------------------------------------------------------

const loadedModels = () => service.models.filter((model) => model.loaded);

function chosenModels() {
  const choice = $("#models input:checked").value;
  return loadedModels().filter((model) => choice === SIDE_BY_SIDE || model.id === choice);
}

/** What a model is to be asked with: the query of POST /predict. */
function queryOf(model) {
  const chosen = { model: model.id, detector: $("#detector").value, coverage: $("#coverage").value };
  return new URLSearchParams({ ...chosen, distribution: true }).toString();
}

const answerOf = (photograph, model) => photograph.answers.get(queryOf(model));
const isDone = (photograph) => chosenModels().every((model) => answerOf(photograph, model));

function showModels() {
  const choices = service.models.map(({ id, title, loaded }) => ({ value: id, title, id, loaded }));
  if (loadedModels().length > 1) {
    choices.push({ value: SIDE_BY_SIDE, title: "Side by side", id: "all of them", loaded: true });
  }
  $("#models").replaceChildren(
    ...choices.map(({ value, title, id, loaded }) => {
      const label = element("label");
      const radio = element("input");
      Object.assign(radio, { type: "radio", name: "model", value, disabled: !loaded });
      radio.checked = value === service.default;
      label.append(radio, element("strong", title), element("span", loaded ? id : `${id}, not loaded`));
      return label;
    }),
  );
  $("#detector option[value=auto]").textContent = `Automatic: ${DETECTORS[service.detector]}`;
  const yunet = $("#detector option[value=yunet]");
  yunet.disabled = service.detector !== "yunet";
  if (yunet.disabled) yunet.textContent = "YuNet, not installed";
  $("#options").hidden = false;
  describeChoice();
}

function describeChoice() {
  const models = chosenModels();
  const [{ description, metrics }] = models;
  $("#model-note").textContent =
    models.length > 1
      ? "Each photograph goes to every model."
      : `${description} On ${metrics.n.toLocaleString("en")} test faces, age was ${metrics.age_mae.toFixed(1)} ` +
        `years off on average and gender right for ${percent(metrics.gender_accuracy)}.`;
}

// --- The queue ----------------------------------------------------------------------------------------------

function add(files) {
  if (!files.length) return;
  const added = Array.from(files, (file) => ({
    file,
    url: URL.createObjectURL(file),
    answers: new Map(), // by query: a prediction or a Trouble
    card: null,
    shown: [], // what the card shows of each chosen model
  }));
  photographs = [...added, ...photographs];
  for (const photograph of added) photograph.card = makeCard(photograph);
  $("#photographs").prepend(...added.map((photograph) => photograph.card));
  showPhotographs();
  const overview = $("#overview");
  if (overview.getBoundingClientRect().top > 0.75 * innerHeight) overview.scrollIntoView();
  work();
}

/** Ask what has no answer yet, one question after the other. */
async function work() {
  if (asking || !service) return;
  for (let next; (next = nextQuestion()); ) {
    const { photograph, model } = next;
    const query = queryOf(model);
    const abort = new AbortController();
    asking = { photograph, model, abort };
    show(photograph);
    const answer = await predict(photograph, query, abort.signal).catch((trouble) => trouble);
    photograph.answers.set(query, answer);
    asking = null;
    if (answer.status === 401) askForKey(answer);
    show(photograph);
    showProgress();
  }
}

function nextQuestion() {
  for (const photograph of photographs) {
    const model = chosenModels().find((candidate) => !answerOf(photograph, candidate));
    if (model) return { photograph, model };
  }
  return null;
}

function remove(photograph) {
  const at = photographs.indexOf(photograph);
  photographs.splice(at, 1);
  discard(photograph);
  showPhotographs();
  // Whoever works by keyboard shall not lose the place.
  const neighbour = photographs[Math.min(at, photographs.length - 1)];
  (neighbour ? $(".remove", neighbour.card) : $("#choose")).focus();
}

function removeAll() {
  photographs.splice(0).forEach(discard);
  showPhotographs();
  $("#choose").focus();
}

function discard(photograph) {
  if (asking?.photograph === photograph) asking.abort.abort();
  URL.revokeObjectURL(photograph.url);
  photograph.card.remove();
}

// --- Showing ------------------------------------------------------------------------------------------------

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

const stamp = (id) => $(id).content.firstElementChild.cloneNode(true);
const percent = (share) => `${Math.round(100 * share)}%`;
const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

function showNotice({ title, detail }, retry) {
  const button = element("button", "Try again");
  button.type = "button";
  button.onclick = retry;
  say(`${title}. ${detail}`, ...(retry ? [button] : []));
}

function say(text, ...more) {
  $("#notice").replaceChildren(element("p", text), ...more);
  $("#notice").hidden = false;
}

function askForKey(trouble) {
  if (apiKey) say(`${trouble.title}. The service did not take this key.`);
  $("#key").hidden = false;
}

function showPhotographs() {
  document.body.classList.toggle("busy", photographs.length > 0);
  $("#overview").hidden = !photographs.length;
  photographs.forEach(show);
  showProgress();
}

function showProgress() {
  const total = photographs.length;
  const done = service ? photographs.filter(isDone) : [];
  Object.assign($("#progress"), { max: total || 1, value: done.length, hidden: done.length === total });
  $("#status").textContent = !total
    ? ""
    : !service
    ? `${count(total, "photograph")} waiting`
    : done.length < total
      ? `${done.length} of ${count(total, "photograph")} done`
      : summary();
}

function summary() {
  let found = 0;
  let failed = 0;
  for (const photograph of photographs) {
    const answers = chosenModels().map((model) => answerOf(photograph, model));
    found += Math.max(...answers.map((answer) => answer.faces?.length ?? 0));
    failed += answers.some((answer) => answer instanceof Trouble);
  }
  return (
    `${count(photographs.length, "photograph")} done, ${count(found, "face")} found` +
    (failed ? `, ${count(failed, "problem")}` : "")
  );
}

function makeCard(photograph) {
  const card = stamp("#photograph-template");
  const { name } = photograph.file;
  $("h3", card).textContent = name;
  $("article", card).setAttribute("aria-label", name);
  const removal = $(".remove", card);
  removal.setAttribute("aria-label", `Remove ${name}`);
  removal.onclick = () => remove(photograph);
  const image = $("img", card);
  image.onerror = () => {
    $(".frame", card).classList.add("blank");
    $("figcaption", card).hidden = false;
  };
  image.src = photograph.url;
  return card;
}

function show(photograph) {
  if (!service) return;
  const models = chosenModels();
  const answers = models.map((model) => answerOf(photograph, model));
  // The same detector finds the same faces, whichever model reads them: any answer has the boxes.
  showBoxes(photograph, answers.find((answer) => answer?.faces));
  const place = $(".answers", photograph.card);
  models.forEach((model, i) => {
    const isNow = asking?.photograph === photograph && asking.model === model;
    const what = answers[i] ?? (isNow ? "Looking for faces …" : "Waiting for its turn");
    // What is there already stays, and with it the focus that it may hold.
    if (photograph.shown[i]?.what === what && photograph.shown[i].model === model) return;
    photograph.shown[i] = { model, what };
    const made = makeSection(photograph, model, what);
    if (place.children[i]) place.children[i].replaceWith(made);
    else place.append(made);
  });
  photograph.shown.length = models.length;
  while (place.children.length > models.length) place.lastElementChild.remove();
}

function makeSection(photograph, model, what) {
  const made =
    typeof what === "string"
      ? makeWaiting(what)
      : what instanceof Trouble
        ? makeTrouble(photograph, model, what)
        : makeAnswer(photograph, model, what);
  $("h4", made).textContent = model.title;
  return made;
}

function showBoxes(photograph, prediction) {
  const image = $("img", photograph.card);
  const { name } = photograph.file;
  image.alt = prediction ? `${name}, ${count(prediction.faces.length, "face")} marked` : name;
  const boxes = (prediction?.faces ?? []).map(({ box }, i) => {
    const { width, height } = prediction.image;
    const drawn = element("div");
    drawn.append(element("span", i + 1));
    Object.assign(drawn.style, {
      left: `${(100 * box.x) / width}%`,
      top: `${(100 * box.y) / height}%`,
      width: `${(100 * box.width) / width}%`,
      height: `${(100 * box.height) / height}%`,
    });
    return drawn;
  });
  $(".boxes", photograph.card).replaceChildren(...boxes);
  if (prediction) {
    const { width, height } = prediction.image;
    $(".frame", photograph.card).style.aspectRatio = `${width} / ${height}`;
  }
}

function makeWaiting(text) {
  const made = stamp("#waiting-template");
  $("p", made).textContent = text;
  return made;
}

function makeTrouble(photograph, model, { title, detail }) {
  const made = stamp("#trouble-template");
  $(".title", made).textContent = title;
  $(".detail", made).textContent = detail;
  const retry = $(".retry", made);
  retry.setAttribute("aria-label", `Try again: ${photograph.file.name}`);
  retry.onclick = () => {
    photograph.answers.delete(queryOf(model));
    show(photograph);
    showProgress();
    $("article", photograph.card).focus(); // the button is gone
    work();
  };
  return made;
}

function makeAnswer(photograph, model, prediction) {
  const made = stamp("#answer-template");
  const { faces, detector, timings_ms: spent } = prediction;
  const by = DETECTORS[detector];
  $(".summary", made).textContent = !by
    ? "Taken as one cropped face"
    : faces.length
      ? `${count(faces.length, "face")} found by ${by}`
      : `No face found by ${by}. Try the other detector, or a photograph in which faces are larger.`;
  $(".faces", made).append(...faces.map((face, i) => makeFace(photograph, prediction, face, i)));
  const ms = (value) => `${value.toFixed(1)}\u00a0ms`;
  $(".timings", made).textContent =
    `${ms(spent.total)}: decode ${ms(spent.decode)}, detect ${ms(spent.detect)}, predict ${ms(spent.predict)}`;
  const query = queryOf(model);
  const copies = { ".copy-json": () => json(prediction), ".copy-curl": () => curl(photograph, query) };
  for (const [selector, text] of Object.entries(copies)) {
    const button = $(selector, made);
    const label = button.textContent;
    button.setAttribute("aria-label", `${label}: ${photograph.file.name}, ${model.title}`);
    button.onclick = () => copy(text(), button, label);
  }
  return made;
}

const WARNINGS = {
  small: "small",
  blurred: "blurred",
  dark: "dark",
  bright: "overexposed",
  turned: "turned to a side",
  cut_off: "cut off",
  tilted: "tilted",
};

/** What makes the estimate less reliable, and by how much the face is turned where one would notice. */
function remarks({ roll, warnings }) {
  const turn = Math.abs(roll ?? 0) >= 20 ? [`turned by ${Math.round(roll)}°`] : [];
  return [...warnings.filter((name) => name !== "tilted" || !turn.length).map((name) => WARNINGS[name]), ...turn];
}

function makeFace(photograph, prediction, face, i) {
  const { box, age, gender } = face;
  const made = stamp("#face-template");
  $(".number", made).textContent = i + 1;
  $(".years", made).textContent = count(Math.round(age.years), "year");
  $(".interval", made).textContent =
    `${Math.round(age.low)} to ${Math.round(age.high)} in ${percent(age.coverage)} of cases`;
  // The scale runs from 0 to 100 years, and so does the curve above it, which ends at its own highest point.
  const highest = Math.max(...age.distribution);
  const points = age.distribution.map((probability, year) => `L${year} ${1 - probability / highest}`);
  $(".distribution path", made).setAttribute("d", `M0 1 ${points.join(" ")} V1 Z`);
  Object.assign($(".range", made).style, { left: `${age.low}%`, width: `${age.high - age.low}%` });
  $(".mark", made).style.left = `${age.years}%`;
  $(".gender .label", made).textContent = gender.label;
  $(".gender .probability", made).textContent = percent(gender.probability);
  const remarked = remarks(face);
  $(".remarks", made).hidden = !remarked.length;
  $(".remarks", made).textContent = `Less reliable: ${remarked.join(", ")}`;
  drawPortrait($("canvas", made), $("img", photograph.card), box, prediction.image);
  const light = (on) => $(".boxes", photograph.card).children[i]?.classList.toggle("lit", on);
  made.onpointerenter = () => light(true);
  made.onpointerleave = () => light(false);
  return made;
}

/** The face on a square; nothing where the browser cannot show the photograph. */
async function drawPortrait(canvas, image, box, size) {
  try {
    await image.decode();
  } catch {
    return;
  }
  const scale = image.naturalWidth / size.width;
  const side = Math.max(box.width, box.height) * scale;
  const left = (box.x + box.width / 2) * scale - side / 2;
  const top = (box.y + box.height / 2) * scale - side / 2;
  canvas.getContext("2d").drawImage(image, left, top, side, side, 0, 0, canvas.width, canvas.height);
}

// --- Copying ------------------------------------------------------------------------------------------------

/** JSON with lists of numbers on one line each. */
const json = (answer) =>
  JSON.stringify(answer, null, 2).replace(/\[[^[\]{}"]*\]/g, (list) => list.replace(/\s+/g, " "));

/** The command that asks what this page asked; of the key it shows only where it goes. */
function curl({ file }, query) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const url = new URL(`predict?${query}`, document.baseURI).href;
  // --data-binary takes a file's name as it is; -F gives a meaning to some of its characters.
  return [
    "curl",
    ...(apiKey ? [`-H "X-API-Key: $API_KEY"`] : []),
    "-H 'Content-Type: application/octet-stream'",
    `--data-binary ${quoted(`@${file.name}`)}`,
    quoted(url),
  ].join(" ");
}

async function copy(text, button, label) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages from https or localhost have `navigator.clipboard`; the older way serves the others.
    const area = element("textarea", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  $("#said").textContent = "Copied";
  setTimeout(() => {
    button.textContent = label;
    $("#said").textContent = "";
  }, 2000);
}

// --- The camera ---------------------------------------------------------------------------------------------

const CAMERA_TROUBLES = {
  NotAllowedError: "The camera was refused. Allow it for this page in your browser’s settings, or choose a photograph.",
  NotFoundError: "No camera was found. Connect one, or choose a photograph.",
  NotReadableError: "The camera is in use by another program. Close that, or choose a photograph.",
};

async function openCamera() {
  const view = $("#camera-view");
  $("#camera-message").textContent = "Waiting for the camera. Your browser may ask you to allow it.";
  $("#camera").showModal();
  if (!navigator.mediaDevices) {
    $("#camera-message").textContent =
      "Browsers give the camera only to pages from https or localhost. Choose a photograph instead.";
    return;
  }
  try {
    view.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch (error) {
    $("#camera-message").textContent =
      CAMERA_TROUBLES[error.name] ?? "The camera cannot be used. Choose a photograph instead.";
    return;
  }
  if (!$("#camera").open) closeCamera(); // before the camera was there
}

function closeCamera() {
  const view = $("#camera-view");
  view.srcObject?.getTracks().forEach((track) => track.stop());
  view.srcObject = null;
  view.hidden = true;
  $("#take").disabled = true;
}

function takePhotograph() {
  const view = $("#camera-view");
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [view.videoWidth, view.videoHeight];
  canvas.getContext("2d").drawImage(view, 0, 0);
  canvas.toBlob((blob) => add([new File([blob], "camera.jpg", { type: blob.type })]), "image/jpeg", 0.95);
  $("#camera").close();
}

// --- Wiring -------------------------------------------------------------------------------------------------

$("#choose").onclick = () => $("#files").click();
$("#files").onchange = ({ target }) => {
  add(target.files);
  target.value = ""; // so that the same file can be chosen again
};

document.ondragover = (event) => {
  event.preventDefault();
  $("#intake").classList.add("over");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) $("#intake").classList.remove("over");
};
document.ondrop = (event) => {
  event.preventDefault();
  $("#intake").classList.remove("over");
  take(event.dataTransfer.files, "What you dropped is no file. Save the photograph first, then drop that file.");
};
document.onpaste = (event) => {
  if (event.target.matches("input")) return;
  take(event.clipboardData.files, "There is no photograph to paste. Copy one first.");
};

function take(files, otherwise) {
  $("#notice").hidden = true;
  if (files.length) add(files);
  else say(otherwise);
}

$("#options").onsubmit = (event) => event.preventDefault();
$("#options").onchange = () => {
  describeChoice();
  showPhotographs();
  work();
};

$("#key").onsubmit = (event) => {
  event.preventDefault();
  apiKey = $("#key-field").value;
  $("#notice").hidden = true;
  for (const { answers } of photographs) {
    for (const [key, answer] of answers) if (answer.status === 401) answers.delete(key);
  }
  if (!service) connect();
  else {
    showPhotographs();
    work();
  }
};

$("#remove-all").onclick = removeAll;

$("#use-camera").onclick = openCamera;
$("#take").onclick = takePhotograph;
$("#close-camera").onclick = () => $("#camera").close();
$("#camera").onclose = closeCamera;
$("#camera-view").onloadeddata = ({ target }) => {
  $("#camera-message").textContent = "";
  target.hidden = false;
  $("#take").disabled = false;
  $("#take").focus();
};

connect();

// Works in browsers and in Node.js. `photograph` is a Blob, such as a File that somebody chose.
export async function predict(photograph, url = "http://localhost:8000") {
  const body = new FormData();
  body.append("image", photograph);
  const answer = await fetch(`${url}/predict`, { method: "POST", body });
  const prediction = await answer.json();
  if (!answer.ok) throw new Error(prediction.detail);
  return prediction;
}

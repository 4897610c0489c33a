// node predict.mjs PHOTOGRAPH [URL]
import { readFile } from "node:fs/promises";
import { predict } from "./agegender.mjs";

const [photograph, url] = process.argv.slice(2);
const { faces } = await predict(new Blob([await readFile(photograph)]), url);
for (const { age, gender } of faces) {
  const [years, low, high] = [age.years, age.low, age.high].map((each) => each.toFixed(1));
  const percent = Math.round(100 * gender.probability);
  console.log(`${years} years (${low}-${high}),`, `${gender.label} ${percent}%`);
}

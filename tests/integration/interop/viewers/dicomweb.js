// One call of dicomweb-client in JSON on the command line; what it resolves to, or the status it fails with, in JSON as
// the last line. Binary parts are written to files of a folder.
const { readFileSync, writeFileSync } = require('fs');
const path = require('path');
const { api } = require('dicomweb-client');

globalThis.XMLHttpRequest = require('xhr2'); // what a browser has

const { method, url, token, folder, files, options } = JSON.parse(process.argv[2]);
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const client = new api.DICOMwebClient({ url, headers, verbose: false });

function bytesOf(file) {
  const { buffer, byteOffset, byteLength } = readFileSync(file);
  return buffer.slice(byteOffset, byteOffset + byteLength);
}

let written = 0;
function kept(part) {
  const file = path.join(folder, `${(written += 1)}.part`);
  writeFileSync(file, Buffer.from(part));
  return { file, type: part.contentType };
}

function told(answer) {
  if (answer instanceof ArrayBuffer) return kept(answer);
  if (Array.isArray(answer) && answer[0] instanceof ArrayBuffer) return answer.map(kept);
  return answer;
}

const asked = files ? { ...options, datasets: files.map(bytesOf) } : options;
client[method](asked)
  .then((answer) => ({ answer: told(answer) }))
  .catch((error) => {
    if (!error.status) throw error;
    return { status: error.status };
  })
  .then((line) => console.log(JSON.stringify(line)))
  .catch((error) => {
    console.error(String(error && error.stack ? error.stack : error));
    process.exit(1);
  });

/** Uploads of files: with XMLHttpRequest, which tells how much has been sent. */
import { apiRoot, onRefusedKey, Problem, problemOf, storedKey } from "./client";
import type { Page, UserInput } from "./shapes";

/** Sends one file; a repeat with the same `once` gives what the first made. */
export function upload(file: File, once: string, onShare: (share: number) => void): Promise<UserInput[]> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${apiRoot}/api/training/collect/user-input`);
    request.setRequestHeader("Authorization", `Bearer ${storedKey() ?? ""}`);
    request.setRequestHeader("Idempotency-Key", once);
    request.upload.onprogress = (event) => onShare(event.lengthComputable ? event.loaded / event.total : 0);
    request.onerror = request.onabort = request.ontimeout = () => reject(new Problem(0, ""));
    request.onload = () => {
      if (request.status < 400) {
        try {
          return resolve((JSON.parse(request.responseText) as Page<UserInput>).items);
        } catch {
          return reject(new Problem(0, ""));
        }
      }
      if (request.status === 401) onRefusedKey.call();
      reject(problemOf(request.status, request.responseText));
    };
    const form = new FormData();
    form.append("file", file, file.name);
    request.send(form);
  });
}

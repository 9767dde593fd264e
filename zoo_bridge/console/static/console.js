// What pages do beside htmx: count what is marked, and hand a selection to TOPCAT or Aladin by SAMP.
"use strict";

document.addEventListener("change", (event) => {
  if (!event.target.matches(".pick input")) return;
  const count = document.querySelectorAll(".pick input:checked").length;
  const told = document.querySelector("#marked");
  if (told) told.textContent = count === 1 ? "1 galaxy is marked" : `${count} galaxies are marked`;
});

// The web profile of SAMP 1.3: XML-RPC to a hub on the machine of whoever looks.
const HUB = "http://localhost:21012/";

function asXml(value) {
  if (typeof value === "string") {
    const text = value.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
    return `<value><string>${text}</string></value>`;
  }
  const members = Object.entries(value).map(
    ([name, each]) => `<member><name>${name}</name>${asXml(each)}</member>`);
  return `<value><struct>${members.join("")}</struct></value>`;
}

async function callHub(method, ...params) {
  const sent = params.map((each) => `<param>${asXml(each)}</param>`).join("");
  const body = `<?xml version="1.0"?><methodCall><methodName>samp.webhub.${method}</methodName>`
    + `<params>${sent}</params></methodCall>`;
  const answer = await fetch(HUB, {method: "POST", body, headers: {"Content-Type": "text/xml"}});
  const read = new DOMParser().parseFromString(await answer.text(), "text/xml");
  const fault = read.querySelector("fault");
  if (fault) throw new Error(fault.textContent.trim());
  const found = {};
  for (const member of read.querySelectorAll("member")) {
    found[member.querySelector("name").textContent] = member.querySelector("value").textContent.trim();
  }
  return found;
}

async function send(button) {
  const told = document.querySelector("#samp");
  told.textContent = "Looking for a hub; allow this page in TOPCAT or Aladin if you are asked.";
  try {
    const lent = await (await fetch(button.dataset.lend)).json();
    const known = await callHub("register", {"samp.name": "zoo_bridge"});
    const key = known["samp.private-key"];
    try {
      await callHub("notifyAll", key, {
        "samp.mtype": "table.load.votable",
        "samp.params": {"url": new URL(lent.path, location.origin).href, "table-id": lent.name, "name": lent.name},
      });
    } finally {
      await callHub("unregister", key);
    }
    told.textContent = "Sent.";
  } catch (error) {
    told.textContent = `It could not be sent: ${error.message}. Start TOPCAT or Aladin, and try again; `
      + "or export a file.";
  }
}

document.addEventListener("click", (event) => {
  if (event.target.matches("button[data-lend]")) send(event.target);
});

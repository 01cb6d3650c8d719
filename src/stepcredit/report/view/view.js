"use strict";

// Asks for the version of the folder every two seconds, and replaces the page's content when it has changed.
const EVERY = 2000;

async function refresh() {
  const state = document.getElementById("state");
  try {
    const version = await (await fetch("version")).text();
    if (version !== document.querySelector("main").dataset.version) {
      const page = new DOMParser().parseFromString(await (await fetch(".")).text(), "text/html");
      document.querySelector("main").replaceWith(page.querySelector("main"));
    } else {
      state.textContent = "Refreshed while runs go on.";
    }
  } catch {
    state.textContent = "stepcredit view has ended: this is the last state that it showed.";
  }
  setTimeout(refresh, EVERY);
}

setTimeout(refresh, EVERY);

/* The dialog for the access token: opened when the service refuses a request without one, or by its button. */

import { json, setToken, token, whenUnauthorized } from "./api.js";
import { announce, h, put } from "./dom.js";

/** Builds the dialog and its button; to be called once. */
export function setUpAccess(button) {
  const field = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const why = h("p", { id: "token-why" });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "token-title" }, "Access token"),
    why,
    h("label", { for: "token" }, "Token"),
    field,
    h("p", { class: "soft" }, "It is kept in this tab until you close it, and sent to this service alone."),
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "submit", class: "primary" }, "Use this token"),
      h("button", { type: "button", on: { click: () => dialog.close("cancel") } }, "Cancel"),
      h("button", { type: "button", id: "forget", on: { click: () => dialog.close("forget") } }, "Forget the token"),
    ),
  );
  const dialog = h("dialog", { "aria-labelledby": "token-title", "aria-describedby": "token-why" }, form);
  document.body.append(dialog);
  form.addEventListener("submit", (event) => {
    event.preventDefault(); // nothing is ever submitted: the page's policy forbids it
    dialog.close("use");
  });

  const open = (text) =>
    new Promise((resolve) => {
      put(why, text);
      field.value = "";
      form.querySelector("#forget").hidden = !token();
      dialog.returnValue = "cancel"; // what Escape means
      dialog.showModal();
      field.focus();
      dialog.addEventListener(
        "close",
        () => {
          if (dialog.returnValue === "use") setToken(field.value.trim());
          if (dialog.returnValue === "forget") setToken(null);
          field.value = "";
          resolve(dialog.returnValue);
        },
        { once: true },
      );
    });

  whenUnauthorized(async (refused) => {
    const text = refused
      ? "The service does not accept this token. It may be mistyped, or withdrawn."
      : "This service answers only with an access token. Its operator gives them out.";
    return (await open(text)) === "use" && Boolean(token());
  });
  button.addEventListener("click", async () => {
    const chosen = await open(token() ? "A token is in use. Enter another one to replace it." : "Enter your token.");
    if (chosen === "forget") announce("The token is forgotten.");
    if (chosen === "use") await tried();
  });
}

/** Says whether the new token works; a refused one opens the dialog again by itself. */
async function tried() {
  try {
    await json("/v1/jobs?limit=1");
    announce("The token is accepted.");
  } catch {
    // The next request says what is wrong, where it matters.
  }
}

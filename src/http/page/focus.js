"use strict";

// Where the keyboard is: details that open and close, and what has the focus once something was asked or done. What changes is said once.

const openers = new Map(); // By detail: gives the focus back to what opened it.

/** Remembers what has the focus, and gives it back: tables make their buttons anew, so one is known by what it does. */
function keepFocus() {
  const from = document.activeElement;
  const does = from?.dataset?.does;
  return () => {
    const isThere = from?.isConnected && from !== document.body && from.checkVisibility();
    const again = isThere ? from : does && document.querySelector(`[data-does="${CSS.escape(does)}"]`);
    again?.focus({ preventScroll: true });
    return Boolean(again);
  };
}

const isLost = () => document.activeElement == null || document.activeElement === document.body;

/** Takes the focus to what is no control. */
function focusOn(element) {
  element.tabIndex = -1;
  element.focus({ preventScroll: true });
}

/** Opens a detail, and goes there. */
function show(id) {
  if (!$(id).contains(document.activeElement)) openers.set(id, keepFocus());
  $(id).hidden = false;
  $(id).focus({ preventScroll: true });
  $(id).scrollIntoView({ block: "nearest" });
}

/** Closes a detail, and goes back to what opened it, or else to its section. */
function hide(id) {
  const hadFocus = $(id).contains(document.activeElement);
  $(id).hidden = true;
  if (hadFocus && !openers.get(id)?.()) focusOn($(id).closest("section"));
}

for (const detail of document.querySelectorAll(".detail")) {
  const close = detail.querySelector('button[id$="-close"]');
  close.addEventListener("click", () => hide(detail.id));
  detail.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    close.click();
  });
}

/** Screen readers announce every write: writes only what changed. */
function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** Runs what may fail, and says beside it why it did. Where the control that was used is gone, what it came to has the focus. */
async function saying(id, work) {
  const hadFocus = !isLost();
  try {
    await work();
    $(id).classList.remove("wrong");
  } catch (error) {
    say(id, error.message);
    $(id).classList.add("wrong");
  }
  if (hadFocus && isLost()) focusOn($(id));
}

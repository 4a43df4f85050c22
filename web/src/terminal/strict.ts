// xterm.js writes its colours and sizes into <style> elements, which our content security policy forbids, and takes no other
// document for some of them (xterm.js#4445). What it makes while `run` runs are stand-ins whose text becomes a constructed
// style sheet: the policy has nothing against those, and needs no exception.

export function strictly<T>(run: () => T): T {
  const make = Document.prototype.createElement;
  const standIn = (name: string, options?: ElementCreationOptions) => {
    if (name !== "style") return make.call(document, name, options);
    const element = make.call(document, "template");
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text), get: () => "" });
    element.remove = () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => s !== sheet);
      Element.prototype.remove.call(element);
    };
    return element;
  };
  document.createElement = standIn as typeof document.createElement;
  try {
    return run();
  } finally {
    delete (document as Partial<Document>).createElement; // the prototype's is there again
  }
}

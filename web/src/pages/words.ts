// A command as somebody writes it, cut into arguments as a shell would, without all else that shells do: quotes and backslashes
// count, and nothing is expanded.

export function words(line: string): string[] {
  const out: string[] = [];
  let word: string | undefined;
  let quote = "";
  for (let i = 0; i < line.length; i++) {
    const c = line[i]!;
    if (quote === "'") {
      if (c === "'") quote = "";
      else word += c;
    } else if (c === "\\" && i + 1 < line.length && (quote === "" || '"\\$`'.includes(line[i + 1]!))) {
      word = (word ?? "") + line[++i]!;
    } else if (quote === '"') {
      if (c === '"') quote = "";
      else word += c;
    } else if (c === "'" || c === '"') {
      quote = c;
      word ??= "";
    } else if (/\s/.test(c)) {
      if (word !== undefined) out.push(word);
      word = undefined;
    } else {
      word = (word ?? "") + c;
    }
  }
  if (quote) throw new Error(`a ${quote} has no second one`);
  if (word !== undefined) out.push(word);
  return out;
}

/** The other way: arguments as a line that a shell reads as these. */
export function line(args: string[]): string {
  return args.map((a) => (/^[\w@%+=:,./-]+$/.test(a) ? a : `'${a.replaceAll("'", `'\\''`)}'`)).join(" ");
}

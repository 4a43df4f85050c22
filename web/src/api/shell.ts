// Words for a shell, quoted where it would read them otherwise.
export function quoted(word: string): string {
  return /^[A-Za-z0-9_./:@%+,=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command of loopback: words as they are, flags with their values; what is empty or false is left out. */
export function command(words: string, flags: [name: string, value: string | number | boolean | undefined | readonly string[]][] = []): string {
  const out = [`loopback ${words}`];
  for (const [name, value] of flags) {
    if (value === undefined || value === "" || value === false) continue;
    if (value === true) out.push(`--${name}`);
    else for (const one of typeof value === "object" ? value : [String(value)]) out.push(`--${name} ${quoted(one)}`);
  }
  return out.join(" ");
}

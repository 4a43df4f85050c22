// One table for every list: a real <table> with roles that hold while rows are virtual, so that five thousand rows cost
// what fits on the screen.
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useRef, type ReactNode } from "react";
import { cx } from "./basics";
import { useMedia } from "./media";

export interface Column<Row> {
  key: string;
  head: ReactNode;
  width: string; // of CSS grid: "minmax(10rem,2fr)", "7rem"
  cell: (row: Row) => ReactNode;
  sort?: string; // what the server orders by
  narrow?: "hide"; // on a phone
}

const height = 40;

/** Rows that could not be read: a table of them says nothing, least of all that there are none. */
export const unread: never[] = [];

export function Table<Row>(props: {
  label: string;
  columns: Column<Row>[];
  rows: Row[];
  id: (row: Row) => string;
  total?: number;
  order?: string;
  setOrder?: (order: string) => void;
  open?: (row: Row) => void;
  selected?: ReadonlySet<string>;
  toggle?: (id: string) => void;
  toggleAll?: () => void;
  more?: () => void; // called when the end is near
  empty: ReactNode;
}) {
  const { rows, id, order, setOrder, selected } = props;
  const wide = useMedia("(min-width: 40rem)");
  const columns = props.columns.filter((c) => wide || !c.narrow);
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => scroller.current, estimateSize: () => height, overscan: 12, getItemKey: (i) => id(rows[i]!) });
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  const { more } = props;
  useEffect(() => {
    if (more && last >= rows.length - 30) more();
  }, [more, last, rows.length]);
  const grid = { gridTemplateColumns: (selected ? "2.25rem " : "") + columns.map((c) => c.width).join(" ") };
  const cell = "flex min-w-0 items-center px-3";
  if (rows === unread) return null;
  if (rows.length === 0) return <>{props.empty}</>;
  return (
    <div ref={scroller} tabIndex={0} role="region" aria-label={props.label} className={cx("max-h-[calc(100dvh-14rem)] overflow-auto overscroll-contain focus-visible:-outline-offset-2", rows.length > 5 && "min-h-64")}>
      <div role="table" aria-label={props.label} aria-rowcount={props.total ?? rows.length} className="min-w-fit">
        <div role="row" className="sticky top-0 z-10 grid h-9 border-b border-line bg-card text-[12px] text-soft" style={grid}>
          {selected && (
            <div role="columnheader" className={cell}>
              <input type="checkbox" name="select" aria-label="select all that are shown" checked={rows.length > 0 && rows.every((r) => selected.has(id(r)))} onChange={props.toggleAll} />
            </div>
          )}
          {columns.map((c) => {
            const down = order === `-${c.sort}`;
            const up = order === c.sort;
            return (
              <div key={c.key} role="columnheader" aria-sort={c.sort ? (up ? "ascending" : down ? "descending" : "none") : undefined} className={cell}>
                {c.sort && setOrder ? (
                  <button type="button" className="flex items-center gap-1 hover:text-ink" onClick={() => setOrder(up ? `-${c.sort}` : c.sort!)}>
                    {c.head}
                    <span aria-hidden className={cx("text-[10px]", !(up || down) && "opacity-0")}>
                      {down ? "▼" : "▲"}
                    </span>
                  </button>
                ) : (
                  c.head
                )}
              </div>
            );
          })}
        </div>
        <div role="rowgroup" className="relative" style={{ height: virtual.getTotalSize() }}>
          {items.map((item) => {
            const row = rows[item.index]!;
            const key = id(row);
            return (
              <div
                key={key}
                role="row"
                aria-rowindex={item.index + 2}
                data-id={key}
                style={{ ...grid, height, transform: `translateY(${item.start}px)` }}
                className={cx("absolute inset-x-0 grid border-b border-line/70 text-[13px] hover:bg-sunk/70", selected?.has(key) && "bg-accent-wash")}
                onClick={(e) => {
                  if (props.open && !(e.target as HTMLElement).closest("a,button,input,label")) props.open(row);
                }}
              >
                {selected && (
                  <div role="cell" className={cell}>
                    <input type="checkbox" name="select" aria-label={`select ${key}`} checked={selected.has(key)} onChange={() => props.toggle?.(key)} />
                  </div>
                )}
                {columns.map((c) => (
                  <div key={c.key} role="cell" className={cx(cell, "overflow-hidden")}>
                    <div dir="auto" className="min-w-0 truncate [&>button]:max-w-full [&>button]:truncate">
                      {c.cell(row)}
                    </div>
                  </div>
                ))}
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

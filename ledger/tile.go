package ledger

import (
	"errors"
	"fmt"
)

// Tiles hold the hashes of every eighth level of the tree, 256 to a tile: those of the leaves, of subtrees of 256, of
// 65,536 and so on. The hashes in between follow from them. The last tile of each level is partial until it is full.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// TileID names a tile: hashes Number*256 and following of level 8*Level.
type TileID struct {
	Level  int
	Number int64
}

// Tile is its hashes, one after the other.
type Tile struct {
	TileID
	Hashes []byte
}

const hashSize = len(Hash{})

func (t Tile) count() int { return len(t.Hashes) / hashSize }

func (t Tile) at(i int) Hash { return Hash(t.Hashes[i*hashSize : (i+1)*hashSize]) }

// errTile says that what is stored is not what was.
var errTile = errors.New("ledger: a tile of hashes is missing or short")

// Tiles is a Tree whose hashes are computed from tiles, each read once.
func Tiles(read func(TileID) ([]byte, error)) Tree {
	seen := map[TileID]Tile{}
	return func(level int, index int64) (Hash, error) {
		id := TileID{Level: level / tileHeight}
		rest := level % tileHeight // the hash spans 1<<rest hashes of the tile
		first := index << rest
		id.Number = first / tileWidth
		tile, ok := seen[id]
		if !ok {
			b, err := read(id)
			if err != nil {
				return Hash{}, err
			}
			tile = Tile{id, b}
			seen[id] = tile
		}
		at := int(first % tileWidth)
		if at+1<<rest > tile.count() {
			return Hash{}, fmt.Errorf("%w: level %d, number %d", errTile, id.Level, id.Number)
		}
		return tile.over(at, 1<<rest), nil
	}
}

func (t Tile) over(first, n int) Hash {
	if n == 1 {
		return t.at(first)
	}
	return NodeHash(t.over(first, n/2), t.over(first+n/2, n/2))
}

// Growth adds leaves to a tree in tiles and gathers the tiles that became different.
type Growth struct {
	Range
	tiles map[TileID]*Tile
	edge  map[int]*Tile // the last tile of each level, where it is known
	load  func(TileID) ([]byte, error)
}

// Grow continues the tree over the first size leaves.
func Grow(size int64, read func(TileID) ([]byte, error)) (*Growth, error) {
	r, err := Tiles(read).Resume(size)
	if err != nil {
		return nil, err
	}
	return &Growth{Range: *r, tiles: map[TileID]*Tile{}, edge: map[int]*Tile{}, load: read}, nil
}

// Add appends a leaf's hash.
func (g *Growth) Add(h Hash) error {
	index := g.Size()
	g.AddHash(h)
	for level := 0; ; level++ {
		tile, err := g.last(level, index)
		if err != nil {
			return err
		}
		tile.Hashes = append(tile.Hashes, h[:]...)
		if tile.count() < tileWidth {
			return nil
		}
		h, index = tile.over(0, tileWidth), index/tileWidth
	}
}

// last is the tile that takes the hash of this index.
func (g *Growth) last(level int, index int64) (*Tile, error) {
	id := TileID{level, index / tileWidth}
	if t := g.edge[level]; t != nil && t.TileID == id {
		return t, nil
	}
	t := &Tile{TileID: id}
	if held := int(index % tileWidth); held > 0 {
		b, err := g.load(id)
		if err != nil {
			return nil, err
		}
		if len(b) < held*hashSize {
			return nil, fmt.Errorf("%w: level %d, number %d", errTile, id.Level, id.Number)
		}
		// A longer one: somebody else went on meanwhile, and whoever swaps second gives up.
		t.Hashes = append(make([]byte, 0, tileWidth*hashSize), b[:held*hashSize]...)
	}
	g.tiles[id], g.edge[level] = t, t
	return t, nil
}

// Changed are the tiles to be stored: those that are new and those that grew.
func (g *Growth) Changed() []Tile {
	out := make([]Tile, 0, len(g.tiles))
	for _, t := range g.tiles {
		out = append(out, *t)
	}
	return out
}

// Package file tests files to and from hosts as people have them moved: by the command line, through a control plane that is a process
// of its own, by what real agents carry files with.
package file

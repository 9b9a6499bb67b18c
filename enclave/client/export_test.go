package client

// LandNamed is [WriteAtomically] on a file system without nameless files.
func LandNamed(path string, data []byte) (err error) {
	f, name, err := openNamed(path)
	if err != nil {
		return err
	}
	s := &staged{destination: destination{path: path}, file: f, name: name}
	l := landing{ready: []*staged{s}}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := l.land(); err != nil {
		return err
	}
	return l.close()
}

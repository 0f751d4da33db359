// Renders the Helm chart of a folder as helm does: Go's own templates with the functions of sprig, and those few of
// helm's that the chart uses. Takes values over values.yaml as JSON, and writes all values, the objects and the notes as
// JSON.
//
//	render CHART RELEASE < VALUES
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

type object = map[string]interface{}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func readYaml(path string) object {
	text, err := os.ReadFile(path)
	check(err)
	var value object
	check(yaml.Unmarshal(text, &value))
	return value
}

// files is what templates see as .Files: what lies in the chart.
type files string

func (folder files) Get(name string) string {
	text, err := os.ReadFile(filepath.Join(string(folder), name))
	check(err)
	return string(text)
}

// asJson: helm reads YAML as JSON, so that templates see every number as a float64.
func asJson(value object) object {
	text, err := json.Marshal(value)
	check(err)
	var read object
	check(json.Unmarshal(text, &read))
	return read
}

func merge(into, from object) {
	for name, value := range from {
		inner, isObject := value.(object)
		known, wasObject := into[name].(object)
		if isObject && wasObject {
			merge(known, inner)
		} else {
			into[name] = value
		}
	}
}

func toYaml(value interface{}) (string, error) {
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	err := encoder.Encode(value)
	return strings.TrimSuffix(text.String(), "\n"), err
}

func main() {
	folder, release := os.Args[1], os.Args[2]
	chart := readYaml(filepath.Join(folder, "Chart.yaml"))
	values := asJson(readYaml(filepath.Join(folder, "values.yaml")))
	var given object
	check(json.NewDecoder(os.Stdin).Decode(&given))
	merge(values, given)
	// Templates know the fields of Chart.yaml with a capital first.
	about := object{}
	for name, value := range chart {
		about[strings.ToUpper(name[:1])+name[1:]] = value
	}
	data := object{
		"Values":  values,
		"Chart":   about,
		"Files":   files(folder),
		"Release": object{"Name": release, "Namespace": "default", "Service": "Helm"},
	}
	all := template.New("chart")
	functions := sprig.TxtFuncMap()
	functions["toYaml"] = toYaml
	functions["include"] = func(name string, data interface{}) (string, error) {
		var text bytes.Buffer
		err := all.ExecuteTemplate(&text, name, data)
		return text.String(), err
	}
	all.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(folder, "templates", "*"))
	check(err)
	for _, file := range paths {
		text, err := os.ReadFile(file)
		check(err)
		_, err = all.New(filepath.Base(file)).Parse(string(text))
		check(err)
	}
	objects := []object{}
	notes := ""
	for _, file := range paths {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var text bytes.Buffer
		check(all.ExecuteTemplate(&text, name, data))
		shown := strings.ReplaceAll(text.String(), "<no value>", "")
		if name == "NOTES.txt" {
			notes = shown
			continue
		}
		var one object
		if err := yaml.Unmarshal([]byte(shown), &one); err != nil {
			check(fmt.Errorf("%s: %w\n%s", name, err, shown))
		}
		if one != nil {
			objects = append(objects, one)
		}
	}
	rendered := object{"values": values, "objects": objects, "notes": notes}
	check(json.NewEncoder(os.Stdout).Encode(rendered))
}

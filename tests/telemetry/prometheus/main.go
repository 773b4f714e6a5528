// Reads pages of /metrics as Prometheus does, lints them as promtool does, and evaluates queries over them.
//
//	prometheus <pages.json>   {"pages": [{"at": ms, "text": "..."}], "queries": ["..."]}, answers in JSON
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

type Page struct {
	At   int64  `json:"at"`
	Type string `json:"type"`
	Text string `json:"text"`
}

type Asked struct {
	Pages   []Page   `json:"pages"`
	Queries []string `json:"queries"`
}

type Answer struct {
	Problems []string            `json:"problems"`
	Samples  int                 `json:"samples"`
	Values   map[string][]string `json:"values"`
	Errors   map[string]string   `json:"errors"`
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	raw, err := os.ReadFile(os.Args[1])
	fatal(err)
	var asked Asked
	fatal(json.Unmarshal(raw, &asked))
	answer := Answer{Problems: []string{}, Values: map[string][]string{}, Errors: map[string]string{}}

	folder, err := os.MkdirTemp("", "tsdb")
	fatal(err)
	defer os.RemoveAll(folder)
	db, err := tsdb.Open(folder, nil, nil, tsdb.DefaultOptions(), nil)
	fatal(err)
	defer db.Close()

	symbols := labels.NewSymbolTable()
	for _, page := range asked.Pages {
		found, err := promlint.New(strings.NewReader(page.Text)).Lint()
		fatal(err)
		for _, one := range found {
			answer.Problems = append(answer.Problems, one.Metric+": "+one.Text)
		}
		reader, err := textparse.New([]byte(page.Text), page.Type, symbols, textparse.ParserOptions{})
		fatal(err)
		appender := db.Appender(context.Background())
		for {
			entry, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			fatal(err)
			if entry != textparse.EntrySeries {
				continue
			}
			_, _, value := reader.Series()
			var of labels.Labels
			reader.Labels(&of)
			builder := labels.NewBuilder(of)
			builder.Set("instance", "localhost:9070")
			builder.Set("job", "durable")
			_, err = appender.Append(0, builder.Labels(), page.At, value)
			fatal(err)
			answer.Samples++
		}
		fatal(appender.Commit())
	}

	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1_000_000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{}),
	})
	now := time.UnixMilli(asked.Pages[len(asked.Pages)-1].At)
	for _, text := range asked.Queries {
		query, err := engine.NewInstantQuery(context.Background(), db, nil, text, now)
		if err != nil {
			answer.Errors[text] = err.Error()
			continue
		}
		result := query.Exec(context.Background())
		if result.Err != nil {
			answer.Errors[text] = result.Err.Error()
			continue
		}
		values := []string{}
		if vector, err := result.Vector(); err == nil {
			for _, sample := range vector {
				values = append(values, fmt.Sprintf("%s %g", sample.Metric.String(), sample.F))
			}
		} else {
			answer.Errors[text] = err.Error()
		}
		answer.Values[text] = values
	}
	fatal(json.NewEncoder(os.Stdout).Encode(answer))
}

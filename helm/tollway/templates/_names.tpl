{{- define "tollway.name" -}}
{{- if contains "tollway" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-tollway" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tollway.selector" -}}
app.kubernetes.io/name: tollway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tollway.labels" -}}
{{ include "tollway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* The environment variable, and the Secret's entry, of one key. */ -}}
{{- define "tollway.keyVariable" -}}
TOLLWAY_KEY_{{ .name | upper | replace "-" "_" }}
{{- end -}}

{{- /* tollway.yaml: the values' config, and its keys by reference. */ -}}
{{- define "tollway.config" -}}
{{- $config := fromYaml .Values.config -}}
{{- if $config.Error -}}
{{- fail (printf "values: config is not YAML: %s" $config.Error) -}}
{{- end -}}
{{- if $config.keys -}}
{{- fail "values: config must not hold keys; name them under `keys`, and the chart generates their values" -}}
{{- end -}}
{{- if not (and $config.providers $config.models) -}}
{{- fail "values: config needs `providers` and `models`" -}}
{{- end -}}
{{- $keys := list -}}
{{- range .Values.keys -}}
{{- $keys = append $keys (merge (dict "secret" (printf "env:%s" (include "tollway.keyVariable" .))) .) -}}
{{- end -}}
{{- merge (dict "keys" $keys "state_dir" "/var/lib/tollway/state") $config | toYaml -}}
{{- end -}}
